import math
from pathlib import Path

import numpy as np
import pytest
import torch

from natural_images.segmentation.ade20k import open_ade20k
from natural_images.segmentation.metrics import confusion_matrix, scores

DATA = Path(__file__).parents[4] / "shared" / "data" / "natural_ade20k_sceneparsing150"


def test_confusion_counts_labels_in_rows_and_passes_over_ignored():
    labels = torch.tensor([[0, 0, 1], [2, 255, 1]], dtype=torch.uint8)
    predicted = torch.tensor([[0, 1, 1], [0, 2, 1]])
    assert confusion_matrix(labels, predicted, 3).tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_confusion_of_large_classes_does_not_overflow():
    labels = torch.full((4,), 149, dtype=torch.uint8)
    found = confusion_matrix(labels, torch.full((4,), 148, dtype=torch.uint8), 150)
    assert found[149, 148] == 4
    assert found.sum() == 4


def test_scores_by_hand():
    found = scores(torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]]), ["a", "b", "c"])
    table = found.per_class.set_index("class")
    assert table.loc["a", "iou"] == pytest.approx(6 / 9)
    assert table.loc["b", "iou"] == pytest.approx(3 / 6)
    assert math.isnan(table.loc["c", "iou"])
    assert table.loc["a", "precision"] == pytest.approx(6 / 7)
    assert found.miou == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert found.mean_accuracy == pytest.approx((6 / 8 + 3 / 4) / 2)
    assert found.pixel_accuracy == pytest.approx(9 / 12)
    assert table["labelled"].tolist() == [8, 4, 0]
    assert table["predicted"].tolist() == [7, 5, 0]


def test_a_class_that_is_only_predicted_counts_as_missed():
    found = scores(torch.tensor([[3, 1], [0, 0]]), ["a", "b"])
    assert found.miou == pytest.approx((3 / 4 + 0) / 2)
    # But there is nothing of it to find.
    assert found.mean_accuracy == pytest.approx(3 / 4)


def test_scores_agree_with_scikit_learn():
    from sklearn.metrics import accuracy_score, jaccard_score, recall_score

    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 5, (2, 4000))
    predicted = np.where(random.random(4000) < 0.4, labels, predicted)
    found = scores(
        confusion_matrix(torch.from_numpy(labels), torch.from_numpy(predicted), 5), list("abcde")
    )
    assert found.miou == pytest.approx(jaccard_score(labels, predicted, average="macro"))
    assert found.mean_accuracy == pytest.approx(recall_score(labels, predicted, average="macro"))
    assert found.pixel_accuracy == pytest.approx(accuracy_score(labels, predicted))


def test_nothing_labelled_is_no_score():
    found = scores(torch.zeros(2, 2), ["a", "b"])
    assert all(map(math.isnan, (found.miou, found.mean_accuracy, found.pixel_accuracy)))


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="ADE20K's samples are not in ../shared/data")
@pytest.mark.parametrize(("shift", "miou"), [(0, 1), (1, 0)])
def test_labels_of_published_samples_as_predictions(shift, miou):
    source = open_ade20k(DATA / "sampleData", split="validation", classes=150)
    confusion = torch.zeros(150, 150, dtype=torch.int64)
    for index in range(len(source)):
        labels = torch.from_numpy(source.read(index)[1].copy())
        confusion += confusion_matrix(labels, (labels + shift) % 150, 150)
    # A shift by one moves no class onto one that is labelled with it.
    assert scores(confusion, source.classes).miou == miou

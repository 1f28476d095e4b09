import pytest
import torch

from natural_images.detection.matching import match, mean_over, sample, take

OBJECT = [0.0, 0, 10, 10]
BOXES = torch.tensor([[[0.0, 0, 10, 8], [0, 0, 10, 5.5], [0, 0, 10, 2], [50, 50, 60, 60]]])
"""Overlaps of 0.8, 0.55, 0.2 and 0 with the object."""


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [
        (0.5, 0.5, "++--"),
        (0.6, 0.6, "+---"),
        (0.7, 0.3, "+ --"),
        (0.8, 0.55, "+ --"),
        (0.9, 0.9, "----"),
    ],
)
def test_match_by_overlap(positive, negative, expected):
    truth, real = torch.tensor([[OBJECT]]), torch.tensor([[True]])
    found = match(BOXES, truth, real, positive=positive, negative=negative)
    signs = [
        "+" if p else "-" if n else " "
        for p, n in zip(found.positive[0], found.negative[0], strict=True)
    ]
    assert "".join(signs) == expected


def test_match_takes_the_object_with_the_largest_overlap():
    truth = torch.tensor([[[50.0, 50, 60, 61], OBJECT]])
    found = match(BOXES, truth, torch.tensor([[True, True]]), positive=0.5, negative=0.5)
    assert found.truth[0, [0, 1, 3]].tolist() == [1, 1, 0]
    assert found.positive[0].tolist() == [True, True, False, True]


def test_match_gives_every_object_its_best_boxes_unless_they_are_negative():
    truth = torch.tensor([[OBJECT, [50.0, 50, 90, 52]]])  # 0.2 · with the last box
    boxes = BOXES[:, 1:]
    found = match(
        boxes, truth, torch.tensor([[True, True]]), positive=0.7, negative=0.3, every_object=True
    )
    assert found.positive[0].tolist() == [True, False, False]
    assert found.negative[0].tolist() == [False, True, True]


def test_match_gives_an_object_all_boxes_that_are_equally_good():
    boxes = torch.tensor([[[0.0, 0, 10, 5], [0, 5, 10, 10], [0, 0, 10, 4]]])
    found = match(
        boxes,
        torch.tensor([[OBJECT]]),
        torch.tensor([[True]]),
        positive=0.7,
        negative=0.3,
        every_object=True,
    )
    assert found.positive[0].tolist() == [True, True, False]


def test_match_of_images_of_a_batch_and_of_padding():
    boxes = BOXES.expand(2, -1, -1)
    truth = torch.tensor([[OBJECT, OBJECT], [OBJECT, [50.0, 50, 60, 60]]])
    real = torch.tensor([[False, False], [False, True]])
    found = match(boxes, truth, real, positive=0.5, negative=0.5, every_object=True)
    assert not found.positive[0].any()
    assert found.negative[0].all()
    assert found.positive[1].tolist() == [False, False, False, True]


@pytest.mark.parametrize(("positives", "expected"), [(0, 0), (3, 3), (40, 8)])
def test_sample_takes_at_most_a_part_of_positives(positives, expected):
    torch.manual_seed(0)
    positive = torch.zeros(2, 100, dtype=torch.bool)
    positive[:, 30 : 30 + positives] = True
    negative = ~positive
    negative[:, 90:] = False
    drawn = sample(positive, negative, 32, 0.25)
    assert drawn.valid.all()
    assert drawn.positive.sum(1).tolist() == [expected] * 2
    assert (take(positive, drawn.index) == drawn.positive).all()
    assert (take(negative, drawn.index) == ~drawn.positive).all()
    assert all(len(set(row)) == 32 for row in drawn.index.tolist())


def test_sample_marks_what_there_is_not():
    positive = torch.tensor([[True, False, False, False], [False] * 4])
    negative = torch.tensor([[False, True, False, False], [False] * 4])
    drawn = sample(positive, negative, 16, 0.5)
    assert drawn.valid.tolist() == [[True, True, False, False], [False] * 4]
    assert drawn.positive.tolist() == [[True, False, False, False], [False] * 4]
    assert drawn.index[0, :2].tolist() == [0, 1]


def test_sample_is_random_and_even():
    torch.manual_seed(0)
    positive = torch.ones(400, 10, dtype=torch.bool)
    counts = sample(positive, ~positive, 4, 0.5).index
    drawn = sample(positive, ~positive, 4, 0.5)
    assert not counts.equal(drawn.index)
    frequency = drawn.index[drawn.positive].bincount(minlength=10) / 400
    assert drawn.positive.sum() == 800
    assert ((frequency > 0.12) & (frequency < 0.28)).all()


def test_mean_over_by_hand():
    loss = torch.tensor([[1.0, 2.0], [4.0, torch.inf]], requires_grad=True)
    chosen = torch.tensor([[True, False], [True, False]])
    counted = torch.tensor([[True, True], [True, True]])
    mean = mean_over(loss, chosen, counted)
    assert mean.item() == pytest.approx(5 / 4)
    mean.backward()
    assert loss.grad.tolist() == [[0.25, 0], [0.25, 0]]


def test_mean_over_nothing_is_zero_with_a_gradient():
    loss = torch.ones(1, 2, requires_grad=True)
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    mean = mean_over(loss, nothing, nothing)
    mean.backward()
    assert mean.item() == 0
    assert loss.grad.eq(0).all()

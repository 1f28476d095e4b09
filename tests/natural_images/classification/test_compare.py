"""One table of several evaluations."""

import json

import pandas as pd
import pytest

from natural_images.classification.compare import compare
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError

METRICS = {
    "architecture": "FastVim",
    "parameters": 172042,
    "weights": "plain",
    "data": "digits",
    "images": 360,
    "top1": 0.975,
    "top5": None,
    "loss": 0.1234,
    "images_per_s": 1234.5,
}


@pytest.fixture
def evaluation(tmp_path):
    def evaluation(name, **different):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({**METRICS, **different}))
        return folder

    return evaluation


def test_the_best_comes_first(evaluation, tmp_path):
    folders = [evaluation("vim", top1=0.9), evaluation("vit", top1=0.99, top5=1.0)]
    output = tmp_path / "tables" / "table.md"
    table = compare(folders, output=output)
    assert list(table["name"]) == ["vit", "vim"]
    rows = output.read_text().splitlines()
    assert rows[0].startswith("| model | architecture | parameters |")
    assert rows[2] == (
        "| vit | FastVim | 172,042 | plain | 360 | 99.0 % | 100.0 % | 0.123 | 1,234 |"
    )
    assert "| 90.0 % | – |" in rows[3]
    written = pd.read_csv(output.with_suffix(".csv"))
    assert list(written["top1"]) == [0.99, 0.9]


def test_folders_of_one_name_are_told_apart(evaluation, tmp_path):
    folders = [evaluation("vim/evaluation"), evaluation("vit/evaluation")]
    table = compare(folders, output=tmp_path / "table.md")
    assert set(table["name"]) == {"vim/evaluation", "vit/evaluation"}


def test_each_kind_of_weights_is_a_row(evaluation, tmp_path):
    evaluation("vim/val/plain", top1=0.9)
    evaluation("vim/val/ema", top1=0.95, weights="ema")
    evaluation("vit/val", top1=0.8)
    folders = [tmp_path / "vim" / "val", tmp_path / "vit" / "val"]
    table = compare(folders, output=tmp_path / "table.md", names=["Vim", "ViT"])
    assert list(table["name"]) == ["Vim", "Vim", "ViT"]
    assert list(table["weights"]) == ["ema", "plain", "plain"]
    with pytest.raises(NaturalImagesValueError, match=r"expected 2 names, .*got \['Vim'\]"):
        compare(folders, output=tmp_path / "table.md", names=["Vim"])


def test_one_evaluation(evaluation, tmp_path):
    assert list(compare([evaluation("vim")], output=tmp_path / "t.md")["name"]) == ["vim"]


def test_refusals(evaluation, tmp_path):
    with pytest.raises(NaturalImagesDataError, match=r"expected the images of .*360, got 10"):
        compare([evaluation("a"), evaluation("b", images=10)], output=tmp_path / "table.md")
    with pytest.raises(NaturalImagesDataError, match=r"evaluate` with metrics.json, got none"):
        compare([tmp_path / "nowhere"], output=tmp_path / "table.md")
    with pytest.raises(NaturalImagesValueError, match=r"expected a .md as output"):
        compare([evaluation("c")], output=tmp_path / "table.txt")
    assert not (tmp_path / "table.md").exists()

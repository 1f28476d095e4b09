"""Numbers agree with those taken by hand, whatever the layout of classes, and nothing is hidden."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import ImageNetInfo
from torch import Tensor, nn

from natural_images.classification.architectures import create_classifier
from natural_images.classification.evaluate import evaluate, match_classes
from natural_images.classification.images import open_images
from natural_images.classification.model_files import save_model
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError

SIZE = 16
CLASSES = tuple("abcdefgh")
PRESENT = ("b", "d", "g")
EACH = 5
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
OPTIONS = {"embed_dim": 16, "depth": 2, "patch_size": 4}


def write_images(folder: Path, classes: tuple[str, ...] = PRESENT) -> Path:
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(EACH):
            pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def build(folder: Path, name: str = "fastvim_tiny_patch16_224", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = create_classifier(
        name, num_classes=len(CLASSES), size=SIZE, options={**OPTIONS, **options}
    ).eval()
    nn.init.normal_(model.head.weight, std=2)  # so that answers differ
    ema = {key: -value for key, value in model.state_dict().items() if key != "head.bias"}
    save_model(
        model,
        folder,
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        size=SIZE,
        eval_crop=1.0,
        ema={**model.state_dict(), "head.weight": ema["head.weight"]},
    )
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    folder = tmp_path_factory.mktemp("saved") / "model"
    return folder, build(folder)


def by_hand(images: Path, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Logits (image, class) and labels as the model counts them, one image at a time."""
    logits, labels = [], []
    for file in sorted(images.glob("*/*.png")):
        pixels = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
        scaled = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        with torch.no_grad():
            logits.append(model(scaled[None])[0])
        labels.append(CLASSES.index(file.parent.name))
    return torch.stack(logits), torch.tensor(labels)


@pytest.mark.parametrize("restrict", [False, True])
@pytest.mark.parametrize("weights", ["plain", "ema"])
def test_metrics_by_hand(
    restrict: bool, weights: Any, images: Path, saved: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    folder, model = saved
    found = evaluate(
        folder, images, output=tmp_path, restrict=restrict, weights=weights, batch_size=4
    )
    logits, labels = by_hand(images, model)
    if weights == "ema":
        logits = 2 * model.head.bias.detach() - logits
    if restrict:
        left_out = [place for place, name in enumerate(CLASSES) if name not in PRESENT]
        logits[:, left_out] = -torch.inf
    order = logits.argsort(dim=1, descending=True)
    assert found["top1"] == pytest.approx(float((order[:, 0] == labels).float().mean()))
    assert 0 < found["top1"] < 1
    assert found["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-4)
    top5 = float((order[:, :5] == labels[:, None]).any(1).float().mean())
    # among three classes the true one is always one of five
    assert found["top5"] == (None if restrict else pytest.approx(top5))
    assert found["classes_to_choose_from"] == (3 if restrict else 8)
    assert found == json.loads((tmp_path / "metrics.json").read_text())

    table = pd.read_parquet(tmp_path / "predictions.parquet")
    assert table["label"].tolist() == [CLASSES[int(label)] for label in labels]
    best = 3 if restrict else 5
    assert table[f"class_{best}"].tolist() == [CLASSES[int(k)] for k in order[:, best - 1]]
    assert f"class_{best + 1}" not in table
    expected = logits.softmax(dim=1).sort(dim=1, descending=True).values[:, best - 1]
    np.testing.assert_allclose(table[f"probability_{best}"], expected, rtol=1e-3)
    assert Path(table["name"][0]).name == "0.png"
    classes = pd.read_csv(tmp_path / "classes.csv")
    assert classes["class"].tolist() == list(PRESENT)
    assert classes["top1"].mean() == pytest.approx(found["top1"], rel=1e-5)


def test_everything_is_written_and_nothing_else_touched(
    images: Path, saved: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    found = evaluate(saved[0], images, output=tmp_path, limit=4)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("metrics.json", "predictions.parquet", "classes.csv", "quarantine.csv"),
        *("reliability.png", "confused.png", "mine.txt"),
    }
    assert (found["images"], found["images_available"]) == (4, 15)
    # a quick look sees several classes of five images each, and the same ones each time
    first = pd.read_parquet(tmp_path / "predictions.parquet")
    assert first["label"].nunique() > 1
    evaluate(saved[0], images, output=tmp_path, limit=4)
    assert pd.read_parquet(tmp_path / "predictions.parquet").equals(first)


def test_numbered_folders_are_places_in_the_models_order(
    saved: tuple[Path, nn.Module], images: Path, tmp_path: Path
) -> None:
    numbered = write_images(tmp_path / "v2", tuple(str(CLASSES.index(name)) for name in PRESENT))
    assert evaluate(saved[0], numbered, output=tmp_path / "a")["loss"] == pytest.approx(
        evaluate(saved[0], images, output=tmp_path / "b")["loss"]
    )
    assert set(pd.read_parquet(tmp_path / "a/predictions.parquet")["label"]) == set(PRESENT)


def test_classes_are_matched_by_name_first() -> None:
    assert match_classes(["0", "1", "10", "2"], ["10", "2"]).tolist() == [2, 3]
    assert match_classes(["x", "y", "z"], ["0", "2"]).tolist() == [0, 2]
    with pytest.raises(NaturalImagesDataError, match=r"here: expected .*x, y, .*got 0, 2\."):
        match_classes(["x", "y"], ["0", "2"], where="here")
    with pytest.raises(NaturalImagesDataError, match=r"got cat, dog\."):
        match_classes(["x", "y"], ["x", "cat", "dog"])


def test_imagenet_named_in_words_is_known_by_its_order() -> None:
    info = ImageNetInfo()
    ids = info.label_names()
    words = [info.label_name_to_description(name) for name in ids]
    assert "," in words[0]
    words[5] = "another name of the same"
    assert match_classes(ids, words).tolist() == list(range(1000))
    with pytest.raises(NaturalImagesDataError, match="expected classes that the model knows"):
        match_classes(ids, words[1:] + words[:1])


def test_a_name_of_two_classes_is_refused() -> None:
    """ImageNet has two cranes, a bird and a machine."""
    assert match_classes(["crane", "crane", "cat"], ["cat"]).tolist() == [2]
    with pytest.raises(NaturalImagesDataError, match=r"\['crane'\], which it has twice"):
        match_classes(["crane", "crane", "cat"], ["cat", "crane"])


@pytest.mark.parametrize("kind", ["numbers", "words"])
def test_imagenet_learned_without_ids_is_asked_by_them(kind: str) -> None:
    info = ImageNetInfo()
    ids = info.label_names()
    assert ids == sorted(ids)
    words = [info.label_name_to_description(name) for name in ids]
    model = [str(number) for number in range(1000)] if kind == "numbers" else words
    some = ["n01498041", "n01531178", "n12144580"]  # of ImageNet-A
    assert match_classes(model, some).tolist() == [ids.index(name) for name in some]
    assert match_classes(model, ids).tolist() == list(range(1000))
    assert match_classes(model, words).tolist() == list(range(1000))
    assert match_classes(model, ["3", "20"]).tolist() == [3, 20]
    # "entity" is a WordNet id and no class
    with pytest.raises(NaturalImagesDataError, match=r"got n00001740\. "):
        match_classes(model, [*some, "n00001740"])
    with pytest.raises(NaturalImagesDataError, match=r"got n01498041, n01531178"):
        match_classes(model[:999], some)


def test_images_that_do_not_decode_are_counted_and_named(
    saved: tuple[Path, nn.Module], images: Path, tmp_path: Path
) -> None:
    broken = write_images(tmp_path / "broken")
    (broken / "d/5.png").write_bytes((broken / "d/0.png").read_bytes()[:200])
    (broken / "g/5.png").write_bytes(b"")
    found = evaluate(saved[0], broken, output=tmp_path / "a", batch_size=2)
    assert (found["images"], found["images_not_decoded"]) == (15, 2)
    sound = evaluate(saved[0], images, output=tmp_path / "b")
    assert found["loss"] == pytest.approx(sound["loss"])
    quarantine = pd.read_csv(tmp_path / "a/quarantine.csv")
    assert [Path(name).parts[-2:] for name in quarantine["name"]] == [
        ("d", "5.png"),
        ("g", "5.png"),
    ]
    assert quarantine["reason"].str.len().gt(3).all()
    assert pd.read_csv(tmp_path / "b/quarantine.csv").empty
    for file in broken.glob("*/*.png"):
        file.write_bytes(b"")
    with pytest.raises(NaturalImagesDataError, match="none of 17 images could be decoded"):
        evaluate(saved[0], broken, output=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_options_of_a_published_file_are_recorded(
    saved: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    numbered = write_images(tmp_path / "images", ("1", "3", "6"))
    file, options = saved[0] / "model.safetensors", {"scaling_factor": 0.25}
    tuned = evaluate(file, numbered, output=tmp_path / "a", model_options=options)
    plain = evaluate(file, numbered, output=tmp_path / "b")
    assert (tuned["model_options"], plain["model_options"]) == (options, {})
    assert tuned["loss"] != plain["loss"]


def test_images_are_resized_as_in_training(images: Path, tmp_path: Path) -> None:
    model = build(tmp_path / "a")
    statistics: dict[str, Any] = {"mean": MEAN, "std": STD, "size": SIZE, "eval_crop": 1.0}
    save_model(model, tmp_path / "b", classes=CLASSES, interpolation="bilinear", **statistics)
    bicubic, bilinear = (
        evaluate(tmp_path / name, images, output=tmp_path / f"{name}_scores", crop=0.5)
        for name in "ab"
    )
    assert bicubic["loss"] != bilinear["loss"]


@pytest.mark.parametrize(
    ("name", "options"),
    [("fastvim_tiny_patch16_224", {}), ("vit_tiny_patch16_224", {"num_heads": 2})],
)
def test_another_size_and_crop(
    name: str, options: dict[str, Any], images: Path, tmp_path: Path
) -> None:
    build(tmp_path / "model", name, **options)
    found = evaluate(tmp_path / "model", images, output=tmp_path / "a", size=24, crop=0.5)
    assert (found["size_px"], found["crop"]) == (24, 0.5)
    trained = evaluate(tmp_path / "model", images, output=tmp_path / "b")
    assert (trained["size_px"], trained["crop"]) == (SIZE, 1.0)
    assert abs(trained["loss"] - found["loss"]) > 1e-3


def test_the_size_decides_how_much_a_published_file_sees(
    saved: tuple[Path, nn.Module], images: Path, tmp_path: Path
) -> None:
    numbered = write_images(tmp_path / "images", ("1", "3", "6"))
    crops = {
        (size, crop): evaluate(
            *(saved[0] / "model.safetensors", numbered),
            limit=1,
            size=size,
            crop=crop,
            output=tmp_path / "a",
        )["crop"]
        for size, crop in ((None, None), (24, None), (228, None), (228, 0.9), (24, 1.0))
    }
    assert list(crops.values()) == [0.875, 0.875, 1.0, 0.9, 1.0]
    # A folder tells what its training chose.
    assert evaluate(saved[0], images, output=tmp_path / "b", limit=1, size=24)["crop"] == 1.0


@pytest.mark.parametrize(
    ("name", "options"),
    [("fastvim_tiny_patch16_224", {}), ("vit_tiny_patch16_224", {"num_heads": 2})],
)
def test_images_smaller_than_a_patch(
    name: str, options: dict[str, Any], images: Path, tmp_path: Path
) -> None:
    model = build(tmp_path / "model", name, **options)
    message = rf"^size: expected at least one patch of {type(model).__name__}, 4 px, got 2\. Take 4"
    with pytest.raises(NaturalImagesValueError, match=message):
        evaluate(tmp_path / "model", images, output=tmp_path / "a", size=2)


def test_half_precision_is_close(
    saved: tuple[Path, nn.Module], images: Path, tmp_path: Path
) -> None:
    half = evaluate(saved[0], images, output=tmp_path, precision="bfloat16")
    full = evaluate(saved[0], images, output=tmp_path)
    assert half["loss"] == pytest.approx(full["loss"], rel=0.1)
    assert half["loss"] != full["loss"]


@pytest.mark.slow
def test_processes_that_decode_change_nothing(
    saved: tuple[Path, nn.Module], images: Path, tmp_path: Path
) -> None:
    alone = evaluate(saved[0], images, output=tmp_path / "a", batch_size=4)
    several = evaluate(saved[0], images, output=tmp_path / "b", batch_size=4, workers=2)
    assert several["loss"] == alone["loss"]
    tables = [pd.read_parquet(tmp_path / run / "predictions.parquet") for run in "ab"]
    assert tables[0].equals(tables[1])


def test_a_model_that_diverged_is_told(images: Path, tmp_path: Path) -> None:
    model = build(tmp_path / "model")
    nn.init.constant_(model.head.bias, torch.nan)
    statistics: dict[str, Any] = {"mean": MEAN, "std": STD, "size": SIZE}
    save_model(model, tmp_path / "model", classes=CLASSES, **statistics)
    with pytest.raises(NaturalImagesDataError, match="expected finite logits"):
        evaluate(tmp_path / "model", images, output=tmp_path / "a")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"precision": "float8"}, "precision: expected one of"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"limit": 0}, "limit: expected at least 1, got 0"),
        ({"crop": 1.5}, "eval_crop"),
        ({"size": 0}, "size"),
    ],
)
def test_options_are_checked(
    option: dict[str, Any],
    message: str,
    saved: tuple[Path, nn.Module],
    images: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(NaturalImagesValueError, match=message):
        evaluate(saved[0], images, output=tmp_path, **option)
    assert len(open_images(images, split="val")) == 15

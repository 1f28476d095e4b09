"""A folder in COCO's layout: squares on noise, polygons and run lengths, a crowd."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 48, 40
DATA = Path(__file__).parents[4] / "shared" / "data"


def square(number, image, x, y, side, category=3, **changes):
    """An annotation of a square whose corners lie on the edges of pixels."""
    polygon = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [x, y, side, side],
        "area": side * side,
        "iscrowd": 0,
        "segmentation": [polygon],
        **changes,
    }


def run_lengths(mask):
    """COCO's run lengths, counted the slow way."""
    counts, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(0)
            value = bool(pixel)
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def content(images=4):
    """A crowd in image 11, nothing in 12; ids do not begin at 1 and are in no order."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:30, 8:20] = True
    return {
        "images": [
            {"id": 10 + i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH}
            for i in range(images)
        ],
        "categories": [{"id": 7, "name": "cross"}, {"id": 3, "name": "square"}],
        "annotations": [
            square(5, 10, 4, 6, 12),
            square(
                6, 10, 8, 20, 10, 7, bbox=[8, 20, 12, 10], area=120, segmentation=run_lengths(mask)
            ),
            square(7, 11, 0, 0, 20),
            square(8, 11, 8, 20, 10, iscrowd=1, segmentation=run_lengths(mask)),
            *(square(20 + i, 10 + i, 10, 10, 16, 7) for i in range(3, images)),
        ],
    }


def write(folder, described, split="train"):
    """Write the JSON and an image for each of its rows: grey noise, brighter in its boxes."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    pixels = folder / f"{split}2017"
    pixels.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for image in described["images"]:
        drawn = random.integers(0, 60, (image["height"], image["width"], 3)).astype(np.uint8)
        for row in described["annotations"]:
            if row["image_id"] == image["id"]:
                x, y, width, height = map(int, row["bbox"])
                drawn[y : y + height, x : x + width, row["category_id"] % 3] = 220
        Image.fromarray(drawn).save(pixels / image["file_name"])
    file = folder / "annotations" / f"instances_{split}2017.json"
    file.write_text(json.dumps(described))
    return folder


@pytest.fixture
def coco(tmp_path):
    """Both splits of the folder."""
    write(tmp_path / "coco", content(6))
    return write(tmp_path / "coco", content(4), "val")


@pytest.fixture
def described():
    return content()


@pytest.fixture
def write_coco(tmp_path):
    return lambda described, split="train": write(tmp_path / "coco", described, split)


@pytest.fixture
def draw_square():
    return square


@pytest.fixture
def data():
    """A folder of real files below ``shared/data``; skips where it is absent."""

    def find(name):
        if not (DATA / name).is_dir():
            pytest.skip(f"{name} is not in ../shared/data")
        return DATA / name

    return find


MICRO = {
    "model": {
        "name": "fastvim_tiny_patch16_dense",
        "options": {"patch_size": 8, "embed_dim": 16, "depth": 2},
    },
    "heads": {
        **{"channels": 8, "rpn_convs": 1, "box_convs": 1, "box_fc": 16, "mask_convs": 1},
        **{"rpn_samples": 16, "box_samples": 8, "proposals_train": 16, "proposals_test": 8},
        "score": 0.0,  # it has learned nothing, and is to find something
    },
    "augment": {"size": 48, "scale": [0.8, 1.2]},
    "recipe": {
        **{"steps": 4, "warmup_steps": 1, "validate_every_steps": 2, "batch_size": 2},
        **{"lr_scale_batch": 2, "num_workers": 1, "checkpoint_every_steps": 2},
    },
}


def write_experiment(folder, images):
    """A YAML of a micro detector and four steps."""
    file = folder / "experiment.yaml"
    file.write_text(json.dumps({**MICRO, "data": {"path": str(images)}}))  # which is YAML too
    return file


@pytest.fixture
def experiment_file(tmp_path, coco):
    return write_experiment(tmp_path, coco)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Folders of a model, of its run and of its images; for reading alone."""
    from natural_images.detection.experiment import load_experiment
    from natural_images.detection.train import train

    folder = tmp_path_factory.mktemp("detector")
    write(folder / "coco", content(6))
    images = write(folder / "coco", content(4), "val")
    experiment = load_experiment(write_experiment(folder, images))
    train(experiment, folder / "model", folder / "run")
    return folder

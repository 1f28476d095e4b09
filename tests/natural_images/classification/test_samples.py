import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from fastvim.training.reading import read_ahead
from natural_images.classification import samples as module
from natural_images.classification.augment import Augment, eval_transform, train_transform
from natural_images.classification.images import BadImage, open_images
from natural_images.classification.loader_speed import write_jpegs
from natural_images.classification.quarantine import RunQuarantine
from natural_images.classification.samples import ImageSamples
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError


@pytest.fixture
def folder(tmp_path):
    write_jpegs(tmp_path, copies=4, side_px=64)
    return tmp_path


@pytest.fixture
def source(folder):
    return open_images(folder)


class Unreadable:
    """Black images; one in `every` cannot be read."""

    classes = ("black",)

    def __init__(self, count, every):
        self.labels, self.every = np.zeros(count, np.int64), every

    def __len__(self):
        return len(self.labels)

    def name(self, index):
        return str(index)

    def read(self, index):
        if index % self.every == 0:
            raise BadImage("unreadable")
        return Image.new("RGB", (2, 2))


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_batches_are_images_and_classes(source):
    indices = np.arange(1, 20, 2)
    samples = ImageSamples(source, indices, eval_transform(Augment(), 32))
    batch = samples.get_batch(np.array([9, 0, 3]), seed=0)
    assert len(samples) == 10
    assert batch["images"].shape == (3, 3, 32, 32)
    assert batch["images"].dtype == torch.uint8
    assert batch["classes"].dtype == torch.int64
    assert batch["classes"].tolist() == source.labels[indices[[9, 0, 3]]].tolist()


def test_same_seed_same_batch_and_each_place_its_own(source):
    samples = ImageSamples(source, np.arange(20), train_transform(Augment(), 32))
    indices = np.array([3, 3, 8])
    first = samples.get_batch(indices, seed=2**32 - 1)
    assert equal(first, samples.get_batch(indices, seed=2**32 - 1))
    assert not torch.equal(first["images"][0], first["images"][1])
    other = samples.get_batch(indices, seed=1)
    assert not torch.equal(first["images"], other["images"])
    # The first two do not depend on what follows.
    assert torch.equal(samples.get_batch(indices[:2], 1)["images"], other["images"][:2])
    assert equal(first, pickle.loads(pickle.dumps(samples)).get_batch(indices, 2**32 - 1))


@pytest.mark.slow
def test_worker_processes_read_the_same(source):
    samples = ImageSamples(source, np.arange(20), train_transform(Augment(), 32))
    items = [(np.array([i, 19 - i]), i) for i in range(6)]
    read = list(read_ahead(samples, items, workers=2, pin=False))
    assert len(read) == len(items)
    assert all(equal(a, samples.get_batch(*item)) for a, item in zip(read, items, strict=True))


def test_random_transform_needs_processes(source):
    with pytest.raises(NaturalImagesValueError, match="in_processes=True"):
        ImageSamples(source, np.arange(20), train_transform(Augment(), 32), in_processes=False)
    ImageSamples(source, np.arange(20), eval_transform(Augment(), 32), in_processes=False)


def test_bad_image_is_replaced_alike_in_every_run_and_reported_once(source, folder, caplog):
    (folder / source.name(5)).write_bytes(b"damaged")

    def read():
        samples = ImageSamples(source, np.arange(20), train_transform(Augment(), 32))
        return [samples.get_batch(np.array([4, 5, 6]), seed=seed) for seed in (7, 8)]

    first = read()
    assert caplog.text.count("not an image file") == 1
    assert source.name(5) in caplog.text
    assert all(equal(a, b) for a, b in zip(first, read(), strict=True))
    # Its neighbours are what they would have been, and the label is the replacement's.
    assert first[0]["classes"][[0, 2]].tolist() == source.labels[[4, 6]].tolist()
    others = [
        ImageSamples(source, np.arange(20), eval_transform(Augment(), 32)).get_batch(
            np.array([5]), seed
        )
        for seed in range(12)
    ]
    everything = ImageSamples(
        source, np.delete(np.arange(20), 5), eval_transform(Augment(), 32)
    ).get_batch(np.arange(19), 0)
    for other in others:
        (place,) = (everything["images"] == other["images"]).flatten(1).all(1).nonzero()[:, 0]
        assert other["classes"][0] == everything["classes"][place]
    assert len({other["classes"].item() for other in others}) > 1


def test_bad_images_are_left_out(source, folder):
    transform = eval_transform(Augment(), 32)
    whole = ImageSamples(source, np.arange(20), transform).get_batch(np.arange(20), 0)
    (folder / source.name(5)).write_bytes(b"damaged")
    samples = ImageSamples(source, np.arange(20), transform, replaces_bad=False)
    left = samples.get_batch(np.arange(4, 8), 0)
    assert equal(left, {name: tensor[[4, 6, 7]] for name, tensor in whole.items()})
    nothing = samples.get_batch(np.array([5]), 0)
    assert {name: len(tensor) for name, tensor in nothing.items()} == {"images": 0, "classes": 0}
    assert nothing["images"].dtype == torch.uint8


def test_processes_report_an_image_once_together(source, folder, tmp_path_factory, caplog):
    (folder / source.name(5)).write_bytes(b"damaged")
    table = RunQuarantine(tmp_path_factory.mktemp("run") / "quarantine.csv", "train")
    # Every process has samples of its own.
    for seed in range(3):
        samples = ImageSamples(
            source, np.arange(20), eval_transform(Augment(), 32), quarantine=table
        )
        pickle.loads(pickle.dumps(samples)).get_batch(np.array([4, 5]), seed)
    assert caplog.text.count("not an image file") == 1
    assert table.path.read_text() == (
        f"split,name,reason\ntrain,{source.name(5)},not an image file\n"
    )


def test_too_many_bad_images_end_the_run(source, folder):
    for index in range(10):
        (folder / source.name(index)).write_bytes(b"")
    samples = ImageSamples(source, np.arange(20), eval_transform(Augment(), 32))
    assert samples.get_batch(np.arange(10, 20), 0)
    with pytest.raises(NaturalImagesDataError, match=r"at most 1% .* bad.*natural-images check"):
        samples.get_batch(np.arange(10), 0)
    assert samples.get_batch(np.arange(10, 14), 0)


def test_a_process_judges_long_before_it_has_read_everything():
    many = Unreadable(100_000, every=50)
    samples = ImageSamples(many, np.arange(len(many)), eval_transform(Augment(), 2))
    assert samples.get_batch(np.arange(900), 0)
    with pytest.raises(NaturalImagesDataError, match=r"got 2\d of the 10\d\d that were read"):
        samples.get_batch(np.arange(900, 1100), 0)


def test_one_bad_image_of_a_few_stops_nothing(source, folder):
    (folder / source.name(5)).write_bytes(b"")
    samples = ImageSamples(source, np.arange(20), eval_transform(Augment(), 32))
    for seed in range(3):
        samples.get_batch(np.arange(20), seed)


def test_a_few_bad_images_do_not(source, folder, monkeypatch):
    monkeypatch.setattr(module, "TOLERATED", 0.6)
    for index in range(11):
        (folder / source.name(index)).write_bytes(b"")
    samples = ImageSamples(source, np.arange(20), eval_transform(Augment(), 32))
    for seed in range(10):
        samples.get_batch(np.arange(20), seed)


@pytest.mark.parametrize("count", [3, 20])
def test_nothing_but_bad_images(source, folder, count):
    for file in folder.glob("*/*"):
        file.write_bytes(b"")
    samples = ImageSamples(source, np.arange(count), eval_transform(Augment(), 32))
    with pytest.raises(NaturalImagesDataError, match="empty file"):
        samples.get_batch(np.arange(3), 0)

"""The speed of the loader: one set of processes, and a row as soon as it is known."""

import numpy as np
import pytest
import torch

from natural_images.classification import loader_speed as module
from natural_images.classification.augment import Augment, eval_transform, train_transform
from natural_images.classification.images import open_images
from natural_images.classification.loader_speed import (
    images_per_second,
    main,
    processor_ms,
    write_jpegs,
)
from natural_images.classification.samples import ImageSamples

TRANSFORMS = {"plain": eval_transform(Augment(), 32), "random": train_transform(Augment(), 32)}


@pytest.fixture
def source(tmp_path):
    write_jpegs(tmp_path, copies=2, side_px=64)
    return open_images(tmp_path)


@pytest.fixture
def readings(monkeypatch):
    """What is read of which data set, in this process."""
    made = []

    def read_here(dataset, items, *, workers, pin):
        read = []
        made.append((dataset, read))
        for item in items:
            read.append((*item, dataset.get_batch(*item)))
            yield read[-1]

    monkeypatch.setattr(module, "read_ahead", read_here)
    return made


def test_one_reading_serves_all_transforms(source, readings, capsys):
    speeds = images_per_second(source, TRANSFORMS, workers=1, batch_size=2, batches=3)
    assert next(speeds)[0] == "plain"
    ((dataset, read),) = readings
    assert dataset.in_processes
    assert len(dataset) == 2 * len(source)
    assert [seed for _, seed, _ in read] == [0, 1, 2, 3, 4], "2 to warm up, then 3"
    name, speed = next(speeds)
    assert (name, next(speeds, None)) == ("random", None)
    assert speed > 0
    assert len(read) == 10
    assert len(readings) == 1
    assert capsys.readouterr().out == "", "the table is the caller's to print"


def test_batches_are_those_of_their_transform(source, readings):
    list(images_per_second(source, TRANSFORMS, workers=1, batch_size=2, batches=1))
    ((_, read),) = readings
    for (images, seed, plain), (again, same, changed) in zip(read[:3], read[3:], strict=True):
        assert np.array_equal(images + len(source), again)
        assert seed == same
        for name, batch in (("plain", plain), ("random", changed)):
            samples = ImageSamples(source, np.arange(len(source)), TRANSFORMS[name])
            assert torch.equal(samples.get_batch(images, seed)["images"], batch["images"])
        assert not torch.equal(plain["images"], changed["images"])


def test_a_row_appears_when_it_is_measured(source, monkeypatch, capsys):
    def measured(source, transforms, *, workers, **_):
        for number, name in enumerate(transforms):
            yield name, 100.0 * workers + number
            assert f"| {name} | {workers} | {100 * workers + number} |\n" in capsys.readouterr().out

    arguments = ["loader_speed", "--data", str(source.root), "--workers", "1,4", "--size", "32"]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.setattr(module, "images_per_second", measured)
    monkeypatch.setattr(module, "processor_ms", lambda *_, **__: 1.0)
    main()


def test_time_of_an_image_is_measured_and_threads_are_restored(source):
    threads = torch.get_num_threads()
    assert 0 < processor_ms(source, eval_transform(Augment(), 32), images=8) < 1000
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_real_processes(source):
    speeds = dict(images_per_second(source, TRANSFORMS, workers=2, batch_size=2, batches=4))
    assert list(speeds) == list(TRANSFORMS)
    assert np.greater([*speeds.values()], 0).all()

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

TRANSFORMS = {"plain": eval_transform(Augment(), 32), "random": train_transform(Augment(), 32)}


@pytest.fixture
def source(tmp_path):
    write_jpegs(tmp_path, copies=2, side_px=64)
    return open_images(tmp_path)


@pytest.fixture
def loaders(monkeypatch):
    """Loaders that read in this process, and what they have read."""
    made = []

    class Loader:
        def __init__(self, dataset, *, sampler, **options):
            self.dataset, self.sampler, self.options, self.read = dataset, sampler, options, []
            made.append(self)

        def __iter__(self):
            for item in self.sampler:
                self.read.append(item)
                yield self.dataset[item]

    monkeypatch.setattr(module, "DataLoader", Loader)
    return made


def test_processes_stay_from_transform_to_transform(source, loaders, capsys):
    speeds = images_per_second(source, TRANSFORMS, workers=1, batch_size=2, batches=3)
    assert next(speeds)[0] == "plain"
    (loader,) = loaders
    assert loader.read == [("plain", number) for number in range(5)], "2 to warm up, then 3"
    name, speed = next(speeds)
    assert (name, next(speeds, None)) == ("random", None)
    assert speed > 0
    assert loader.read[5:] == [("random", number) for number in range(5)]
    assert len(loaders) == 1
    assert loader.options["persistent_workers"]
    assert capsys.readouterr().out == "", "the table is the caller's to print"


def test_batches_are_those_of_their_transform(source, loaders):
    list(images_per_second(source, TRANSFORMS, workers=1, batch_size=2, batches=1))
    batches = [loaders[0].dataset[name, 7] for name in (*TRANSFORMS, *TRANSFORMS)]
    assert torch.equal(batches[0]["classes"], batches[1]["classes"])
    assert not torch.equal(batches[0]["images"], batches[1]["images"])
    for first, again in zip(batches[:2], batches[2:], strict=True):
        assert torch.equal(first["images"], again["images"])


def test_a_row_appears_when_it_is_measured(source, loaders, monkeypatch, capsys):
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

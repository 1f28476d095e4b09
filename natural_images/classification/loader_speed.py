"""Images a second of decoding and augmentation alone, to compare with a GPU's.

``python -m natural_images.classification.loader_speed --workers 1,2,4,8,16`` measures JPEGs of 500
pixels made from photographs that come with scikit-image and scikit-learn, or a data set's own:
``--data /path/to/imagenet``. A row of the table appears as soon as it is measured.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from fastvim.training.reading import read_ahead
from natural_images.classification.augment import (
    Augment,
    Transform,
    eval_transform,
    train_transform,
)
from natural_images.classification.images import ImageSource, open_images
from natural_images.classification.samples import ImageSamples

SIDE_PX = 500
"""Longer side of the images: ImageNet's are 500 × 375 at the median."""
QUALITY = 98
"""JPEG quality that makes files of 100 kB on average; ImageNet's training images have 115 kB."""


def photographs() -> Iterator[tuple[str, np.ndarray]]:
    """Names and pixels (y, x, 3) uint8 of the colour photographs that come with the libraries."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    for name in ("astronaut", "chelsea", "coffee"):
        yield name, getattr(data, name)()
    yield from zip(("china", "flower"), load_sample_images().images, strict=True)


def write_jpegs(
    folder: Path, *, copies: int, side_px: int = SIDE_PX, quality: int = QUALITY
) -> None:
    """Write `copies` JPEGs of each photograph, a class each, every copy cut a little differently.

    The longer side gets `side_px` pixels. The cut keeps files from being equal, so that what is
    measured is not one image in the processor's cache.
    """
    for name, pixels in photographs():
        (folder / name).mkdir(parents=True, exist_ok=True)
        whole = Image.fromarray(pixels)
        for copy in range(copies):
            cut = whole.crop((copy % 16, copy // 16 % 16, whole.width, whole.height))
            scale = side_px / max(cut.size)
            image = cut.resize((round(cut.width * scale), round(cut.height * scale)))
            image.save(folder / name / f"{name}_{copy:04d}.JPEG", quality=quality)


def images_per_second(
    source: ImageSource,
    transforms: Mapping[str, Transform],
    *,
    workers: int,
    batch_size: int,
    batches: int,
) -> Iterator[tuple[str, float]]:
    """Yield the name of each transform, and its speed as soon as it is measured.

    That of reading `batches` random batches, at least one, in `workers` processes as training has
    them. Start-up is left out: every worker has delivered batches of the transform before the clock
    starts. The processes, which take seconds to start, are the same for all transforms. A progress
    bar is on standard error.
    """
    warm_up = 2 * workers
    chosen = np.random.default_rng(0).integers(len(source), size=(warm_up + batches, batch_size))
    items = [
        (chosen[number] + transform * len(source), number)
        for transform in range(len(transforms))
        for number in range(warm_up + batches)
    ]
    images = _EachTransform(source, list(transforms.values()))
    count = "1 process" if workers == 1 else f"{workers} processes"
    with closing(read_ahead(images, items, workers=workers, pin=False)) as read:
        for name in transforms:
            with Progress(console=Console(stderr=True), transient=True) as progress:
                description = f"{count}, {name}"
                for number in progress.track(range(warm_up + batches), description=description):
                    if number == warm_up:
                        start = time.perf_counter()
                    next(read)
                spent = time.perf_counter() - start
            yield name, batches * batch_size / spent


def processor_ms(source: ImageSource, transform: Transform, *, images: int) -> float:
    """Milliseconds that one core spends on an image, whatever else the machine is doing."""
    samples = ImageSamples(source, np.arange(len(source)), transform)
    chosen = np.random.default_rng(0).integers(len(source), size=images)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    try:
        samples.get_batch(chosen[:16], seed=0)
        start = time.process_time()
        samples.get_batch(chosen, seed=1)
        return (time.process_time() - start) / images * 1e3
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Help)
    parser.add_argument("--data", type=Path, help="images to read; else bundled photographs")
    parser.add_argument("--workers", default="1,2", help="numbers of processes, as 1,2,4")
    parser.add_argument("--size", type=int, default=224, help="pixels of the model's images")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch")
    parser.add_argument("--batches", type=int, default=20, help="measured, for each process")
    chosen = parser.parse_args()
    plain = Augment(rand_augment=None, color_jitter=0)
    transforms = {
        "evaluation": eval_transform(plain, chosen.size),
        "crop and flip (MAE)": train_transform(replace(plain, crop_scale=(0.2, 1.0)), chosen.size),
        "with RandAugment (supervised)": train_transform(Augment(), chosen.size),
    }
    with tempfile.TemporaryDirectory() as folder:
        if chosen.data is None:
            write_jpegs(Path(folder), copies=100)
        source = open_images(chosen.data or Path(folder))
        print(f"{len(source)} images, batches of {chosen.batch} at {chosen.size} px")
        _row("transform", "processor time, ms an image")
        _row("---", "---:")
        for name, transform in transforms.items():
            _row(name, f"{processor_ms(source, transform, images=400):.1f}")
        print()
        _row("transform", "processes", "images/s")
        _row("---", "---:", "---:")
        for workers in map(int, chosen.workers.split(",")):
            for name, speed in images_per_second(
                source,
                transforms,
                workers=workers,
                batch_size=chosen.batch,
                batches=workers * chosen.batches,
            ):
                _row(name, f"{workers}", f"{speed:.0f}")


def _row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


class _EachTransform:
    """All images by the first transform, then all by the second, and so on; a `BatchDataset`."""

    in_processes = True

    def __init__(self, source: ImageSource, transforms: Sequence[Transform]) -> None:
        everything = np.arange(len(source))
        self._samples = [ImageSamples(source, everything, transform) for transform in transforms]

    def __len__(self) -> int:
        return sum(map(len, self._samples))

    def get_batch(self, indices: np.ndarray, seed: int) -> dict[str, Tensor]:
        """Read a batch that is all of one transform."""
        transform, indices = divmod(indices, len(self._samples[0]))
        return self._samples[transform[0]].get_batch(indices, seed)


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults, and the description as it is written."""


if __name__ == "__main__":
    main()

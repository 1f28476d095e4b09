"""Time and memory of training steps of the published ADE20K and COCO models on one GPU.

``python -m natural_images.dense_speed --size base`` measures them on random images, boxes and masks
in bf16: what the model takes, without waiting for data.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from natural_images.detection.detector import build_detector
from natural_images.segmentation.segmenter import build_segmenter
from natural_images.segmentation.upernet import HeadSection

WARM_UP_STEPS = 3
"""Steps that compile and tune, and so do not count."""
OBJECTS = 20
"""Objects in an image: COCO has 7 on average, and the masks of many are what takes memory."""
DROP_PATH = {"tiny": 0.1, "small": 0.1, "base": 0.4}


@dataclass(frozen=True)
class Speed:
    """Median time of a step, the most memory that tensors took, and the first and last loss."""

    seconds: float
    memory_gib: float
    losses: tuple[float, float]


def measure(model: nn.Module, batch: Sequence[Tensor], steps: int) -> Speed:
    """Train `model` on one batch again and again, with AdamW and clipped gradients.

    Raises FloatingPointError where a loss is not finite.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    seconds, losses = [], []
    for _ in range(WARM_UP_STEPS + steps):
        torch.cuda.synchronize()
        started = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(*batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 35.0)
        optimizer.step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"expected a finite loss, got {losses[-1]}")
    memory = torch.cuda.max_memory_allocated() / 2**30
    return Speed(statistics.median(seconds[WARM_UP_STEPS:]), memory, (losses[0], losses[-1]))


def segmentation(size: str, batch: int) -> tuple[nn.Module, list[Tensor]]:
    """The ADE20K model and a batch of 512 px crops, on the GPU."""
    model = build_segmenter(
        f"fastvim_{size}_patch16_dense",
        {"drop_path_rate": DROP_PATH[size]},
        num_classes=150,
        heads=HeadSection(),
        crop=512,
    )
    labels = torch.randint(0, 150, (batch, 512, 512))
    return model.cuda().train(), [torch.randn(batch, 3, 512, 512).cuda(), labels.cuda()]


def detection(size: str, batch: int) -> tuple[nn.Module, list[Tensor]]:
    """The COCO model and a batch of 1024 px images with objects that fill their boxes."""
    side = 1024
    model = build_detector(
        f"fastvim_{size}_patch16_dense",
        {"drop_path_rate": DROP_PATH[size]},
        num_classes=80,
        size=side,
    )
    corner = torch.rand(batch, OBJECTS, 2) * 0.8 * side
    extent = torch.rand(batch, OBJECTS, 2) * 0.3 * side + 8
    boxes = torch.cat([corner, (corner + extent).clamp(max=side)], dim=-1)
    masks = np.zeros((batch, OBJECTS, side, side), np.uint8)
    for place in np.ndindex(batch, OBJECTS):
        x0, y0, x1, y1 = boxes[place].int().tolist()
        masks[place][y0:y1, x0:x1] = 1
    classes = torch.randint(0, 80, (batch, OBJECTS))
    packed = torch.from_numpy(np.packbits(masks, axis=-1))
    images = torch.randn(batch, 3, side, side)
    return model.cuda().train(), [each.cuda() for each in (images, boxes, classes, packed)]


def main() -> None:
    """Print one line a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(DROP_PATH), default="base")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--segmentation-batches", type=int, nargs="*", default=[4, 16])
    parser.add_argument("--detection-batches", type=int, nargs="*", default=[8])
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16")
    for name, build, batches in (
        ("ADE20K 512 px", segmentation, arguments.segmentation_batches),
        ("COCO 1024 px", detection, arguments.detection_batches),
    ):
        for batch in batches:
            torch.manual_seed(0)
            speed = measure(*build(arguments.size, batch), steps=arguments.steps)
            print(
                f"{name}, batch {batch}: {1000 * speed.seconds:.0f} ms a step, "
                f"{speed.memory_gib:.1f} GiB, loss {speed.losses[0]:.3f} to {speed.losses[1]:.3f}"
            )


if __name__ == "__main__":
    main()

"""Seconds an image takes FastVim and timm's ViT on a CPU, in one run.

    python kernels/benchmarks/cpu.py --threads 2 --sizes tiny small --pixels 512 1024

FastVim in C, as it runs by default, and by PyTorch's operations, as it does without a compiler
(FASTVIM_BACKEND=torch); ViT as it is, and compiled by `torch.compile`. The models take turns, so
that a noisy machine slows all; medians in float32. The ratio is of the faster of each.
"""

import argparse
import os
import statistics
import time

import timm
import torch
from torch import nn

import fastvim


def seconds(model: nn.Module, images: torch.Tensor, backend: str) -> float:
    """Time of a forward pass and, if the model is in training, a backward pass; one image's."""
    os.environ["FASTVIM_BACKEND"] = backend
    start = time.perf_counter()
    if model.training:
        model(images).square().mean().backward()
    else:
        with torch.inference_mode():
            model(images)
    return (time.perf_counter() - start) / len(images)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small"])
    parser.add_argument("--pixels", nargs="+", type=int, default=[224, 512, 1024])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--training", action="store_true", help="forward and backward")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| size | px | FastVim s/image | in PyTorch | ViT s/image | compiled | FastVim / ViT |")
    print("|---|---|---|---|---|---|---|")
    for size in arguments.sizes:
        for px in arguments.pixels:
            torch.compiler.reset()
            fast = fastvim.create_model(f"fastvim_{size}_patch16_224", img_size=px)
            vit = timm.create_model(f"vit_{size}_patch16_224", img_size=px)
            for model in (fast, vit):
                model.train(arguments.training)
            images = torch.randn(arguments.batch, 3, px, px)
            runs = [(fast, "native"), (fast, "torch"), (vit, "auto"), (torch.compile(vit), "auto")]
            times = [
                [seconds(model, images, backend) for model, backend in runs]
                for _ in range(arguments.rounds + 1)
            ][1:]  # the first round warms up and compiles
            medians = [statistics.median(column) for column in zip(*times, strict=True)]
            ratio = min(medians[2:]) / min(medians[:2])
            cells = [size, px, *(f"{median:.3f}" for median in medians), f"{ratio:.2f}"]
            print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()

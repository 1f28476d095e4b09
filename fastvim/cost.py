"""Parameters and multiply-adds of the models, counted without memory or arithmetic.

`python -m fastvim.cost` prints the table of docs/models.md; names as arguments choose models, and
`--img-size` the size of the image in px.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import fastvim_kernels.flops  # noqa: F401, teaches the counter the operations
import torch
from torch.utils.flop_counter import FlopCounterMode

from fastvim.registry import MODELS, create_model, list_models


@dataclass(frozen=True)
class Cost:
    """What one image costs.

    tokens : patches, times channels in a channel model. multiply_adds : of a forward pass in
    evaluation; matrix products, convolutions and scans, norms and gates are left out.
    """

    img_size: int
    tokens: int
    parameters: int
    multiply_adds: int


def count(name: str, *, img_size: int | None = None, **options: Any) -> Cost:
    """Cost of a registered model.

    img_size : side of the image in px; None takes the size that the model is trained at. A masked
        autoencoder is counted with 75 % of the patches masked, decoder included.
    """
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = create_model(name, **options).eval()
        side = img_size or int(model.grid[0] * model.options["patch_size"])
        channels = model.options["in_chans"]
        model(torch.empty(1, channels, side, side))
    patches = (side // model.options["patch_size"]) ** 2
    return Cost(
        img_size=side,
        tokens=patches * (channels if "channel" in name else 1),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=counter.get_total_flops() // 2,
    )


def table(names: list[str], img_size: int | None = None) -> str:
    """Markdown table of costs."""
    lines = [
        "| model | image, px | tokens | parameters, M | multiply-adds, G |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        cost = count(name, img_size=img_size)
        lines.append(
            f"| `{name}` | {cost.img_size} | {cost.tokens} "
            f"| {cost.parameters / 1e6:.1f} | {cost.multiply_adds / 1e9:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table of the chosen models."""
    parser = argparse.ArgumentParser(
        prog="python -m fastvim.cost", description="Parameters and multiply-adds, one image each."
    )
    parser.add_argument("models", nargs="*", default=[*MODELS], help="names or patterns; all")
    parser.add_argument("--img-size", type=int, help="side in px; default: the trained size")
    arguments = parser.parse_args()
    names = [name for pattern in arguments.models for name in list_models(pattern)]
    print(table(names, arguments.img_size))


if __name__ == "__main__":
    main()

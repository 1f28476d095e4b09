"""What several commands take: options, and how those for paths change an experiment."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Output = Annotated[Path, typer.Option(help="Model folder to write, when training has ended.")]
Checkpoints = Annotated[
    Path,
    typer.Option(help="Folder of checkpoints and curves; a killed run resumes from it."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Replace a value of the YAML, `section.key=value`; repeat. Example: recipe.epochs=30.",
    ),
]
Data = Annotated[Path | None, typer.Option(help="Images, instead of the YAML's data.path.")]
ModelOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--model-option",
        help="What a published checkpoint file does not tell of its model, `key=value` with a "
        "value in JSON; repeat. FastVim fine-tuned after MAE needs scaling_factor=0.25.",
    ),
]


class Precision(StrEnum):
    """Of matrix products in evaluation."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def with_paths(texts: list[str] | None, **paths: Path | None) -> list[str]:
    """Options for paths as the overrides they stand for, after those of --set."""
    keys = {"data": "data.path", "initial": "initial"}
    # As JSON, or a folder called 2012 would be a number and `a: b` a mapping.
    given = [f"{keys[n]}={json.dumps(str(path))}" for n, path in paths.items() if path is not None]
    return [*(texts or ()), *given]

"""One table of several evaluations."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fastvim.files import atomic_path
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError

METRICS = "metrics.json"
KINDS = ("plain", "ema")
"""Folders below an evaluation of all weights."""
HEADINGS = {
    "name": "model",
    "architecture": "architecture",
    "parameters": "parameters",
    "weights": "weights",
    "images": "images",
    "top1": "top-1",
    "top5": "top-5",
    "loss": "loss",
    "images_per_s": "images/s",
}
"""Columns of the table, and what they are called in Markdown."""


def compare(
    evaluations: Sequence[Path], *, output: Path, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Put evaluations beside one another, the best first.

    Parameters
    ----------
    evaluations
        Folders of `evaluate`, or with a folder of it for each kind of weights.
    output
        Markdown to write (.md); the same goes into a .csv beside it.
    names
        What `evaluations` are called; by default as their folders, with parents where two are
        alike.

    Returns
    -------
    A row an evaluation; ``images_per_s`` is that of the model alone on the device it ran on.

    Raises
    ------
    NaturalImagesValueError
        `output` is no .md, or there are not as many `names` as `evaluations`.
    NaturalImagesDataError
        A folder has no metrics, or they are of other images than those of the first.
    """
    output = Path(output)
    if output.suffix != ".md":
        raise NaturalImagesValueError(f"compare: expected a .md as output, got {output}")
    names = _names(evaluations) if names is None else names
    if len(names) != len(evaluations):
        raise NaturalImagesValueError(
            f"compare: expected {len(evaluations)} names, one an evaluation, got {list(names)}"
        )
    rows = [
        (name, folder, _read(folder))
        for name, evaluation in zip(names, evaluations, strict=True)
        for folder in _kinds(Path(evaluation))
    ]
    _, first, expected = rows[0]
    for _, folder, metrics in rows:
        for key in ("data", "images"):
            if metrics.get(key) != expected.get(key):
                raise NaturalImagesDataError(
                    f"{folder / METRICS}: expected the {key} of {first}, "
                    f"{expected.get(key)}, got {metrics.get(key)}. Evaluate on the same images"
                )
    table = pd.DataFrame(
        [
            {**{key: metrics.get(key) for key in HEADINGS}, "name": name}
            for name, _, metrics in rows
        ],
        columns=list(HEADINGS),
    )
    table = table.sort_values("top1", ascending=False, kind="stable", ignore_index=True)
    with atomic_path(output.with_suffix(".csv")) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    with atomic_path(output) as temporary:
        temporary.write_text(_markdown(table))
    return table


def _kinds(evaluation: Path) -> list[Path]:
    """The evaluation itself, or those of each kind of weights below it."""
    if (evaluation / METRICS).is_file():
        return [evaluation]
    kinds = [evaluation / kind for kind in KINDS]
    return [folder for folder in kinds if (folder / METRICS).is_file()] or [evaluation]


def _read(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / METRICS).read_text())
    except (OSError, ValueError) as error:
        raise NaturalImagesDataError(
            f"{folder}: expected a folder of `natural-images evaluate` with {METRICS}, got none "
            f"that can be read ({error})"
        ) from error


def _names(folders: Sequence[Path]) -> list[str]:
    """As few last parts of the paths as tell them apart."""
    parts = [Path(folder).parts for folder in folders]
    for count in range(1, max(map(len, parts))):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _markdown(table: pd.DataFrame) -> str:
    def cell(key: str, value: Any) -> str:
        if value is None or value != value:
            return "–"
        if key in ("top1", "top5"):
            return f"{100 * value:.1f} %"
        if key == "loss":
            return f"{value:.3f}"
        if key == "images_per_s":
            return f"{value:,.0f}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    rows = [
        "| " + " | ".join(cell(key, row[key]) for key in HEADINGS) + " |"
        for row in table.astype(object).to_dict("records")
    ]
    numbers = ("parameters", "images", "top1", "top5", "loss", "images_per_s")
    rule = "|" + "|".join("---:" if key in numbers else "---" for key in HEADINGS) + "|"
    return "\n".join(["| " + " | ".join(HEADINGS.values()) + " |", rule, *rows]) + "\n"

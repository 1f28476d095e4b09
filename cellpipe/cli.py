"""The ``cellpipe`` command: one subcommand a stage, each a thin call of the module of its name.

Modules are imported inside the commands, so that ``cellpipe --help`` answers at once.
"""

import errno
import json
import logging
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cellpipe.cli_figures import figures
from cellpipe.errors import CellpipeError, CellpipeValueError

if TYPE_CHECKING:
    from cellpipe.platemap import PlatemapColumns

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Cell Painting plates in, perturbation embeddings out. The stages, in order: "
    "[bold]ingest, illumination, segment, crops, split, train, embed, profile, evaluate, "
    "figure[/bold]; [bold]simulate[/bold] draws a plate to try them on. Each stage reads the files "
    "of the one before; `snakemake --cores 2 jumpcp_train` runs them all.",
)

app.add_typer(figures, name="figure")

Jobs = Annotated[int, typer.Option(min=1, help="Processes that work on sites at the same time.")]
Sites = Annotated[Path, typer.Option(help="The plate's site table, from `ingest`.")]
Flat = Annotated[Path, typer.Option(help="The plate's flat fields, from `illumination`.")]
SplitFile = Annotated[Path, typer.Option("--split", help="The split, from `split`.")]
ModelFolder = Annotated[Path, typer.Option(help="A model folder, from `train`.")]


class Mode(StrEnum):
    """What `embed` embeds."""

    cells = "cells"
    fields = "fields"


@app.command()
def simulate(
    output: Annotated[Path, typer.Argument(help="Folder to create.")],
    plates: Annotated[int, typer.Option(min=1, help="Replicate plates.")] = 2,
    seed: Annotated[int, typer.Option(help="The same seed draws the same pixels.")] = 0,
    jobs: Jobs = 1,
) -> None:
    """Draw a small Cell Painting data set with known truth, in JUMP's layout."""
    from cellpipe import simulate as stage

    stage.simulate(output, plates=plates, seed=seed, jobs=jobs)


@app.command()
def ingest(
    source: Annotated[Path, typer.Argument(help="Image folder, load_data.csv or OME-Zarr plate.")],
    store: Annotated[Path, typer.Option(help="OME-Zarr plate to write; unused for OME-Zarr.")],
    sites: Annotated[Path, typer.Option(help="Site table to write (.parquet).")],
    quarantine: Annotated[Path, typer.Option(help="Table of unusable images to write (.csv).")],
    plate: Annotated[str | None, typer.Option(help="Plate name; else the source's own.")] = None,
    layout: Annotated[
        str, typer.Option(help="auto, harmony, load_data, pattern or omezarr.")
    ] = "auto",
    channel: Annotated[
        list[str] | None,
        typer.Option(help="Name a channel, `source=name`; repeat. Example: 'Alexa 568=AGP'."),
    ] = None,
    pixel_size_um: Annotated[
        float | None, typer.Option(help="Micrometres per pixel, where the source does not say.")
    ] = None,
    file_pattern: Annotated[
        str | None,
        typer.Option(
            help="For layout pattern: a regular expression over file names with groups channel, "
            "well (or row and column) and perhaps site."
        ),
    ] = None,
    image_root: Annotated[
        Path | None,
        typer.Option(help="For load_data: look for the images here, not under PathName_."),
    ] = None,
    platemap: Annotated[Path | None, typer.Option(help="What is in which well.")] = None,
    metadata: Annotated[Path | None, typer.Option(help="What each broad_sample is.")] = None,
    platemap_column: Annotated[
        list[str] | None,
        typer.Option(help="Column of the platemap to read, `meaning=column`; repeat."),
    ] = None,
    pert_type: Annotated[
        list[str] | None,
        typer.Option(help="What a value means, `value=negcon|poscon|trt|empty`; repeat."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Metadata_Batch of the plate.")] = "",
    source_name: Annotated[str, typer.Option(help="Metadata_Source of the plate.")] = "",
    jobs: Jobs = 1,
) -> None:
    """Bring a plate into an OME-Zarr 0.5 HCS plate; bad images go to the quarantine table."""
    from cellpipe import ingest as stage

    stage.ingest(
        source,
        store=store,
        sites=sites,
        quarantine=quarantine,
        plate=plate,
        layout=layout,
        channels=_pairs("--channel", channel),
        pixel_size_um=pixel_size_um,
        file_pattern=file_pattern,
        image_root=image_root,
        platemap=platemap,
        metadata=metadata,
        platemap_columns=_platemap_columns(platemap_column, pert_type),
        batch=batch,
        source_name=source_name,
        jobs=jobs,
    )


@app.command()
def illumination(
    sites: Annotated[Path, typer.Argument(help="The plate's site table.")],
    output: Annotated[Path, typer.Option(help="Flat fields to write (.npz).")],
    camera_offset: Annotated[float, typer.Option(help="Counts of a dark image.")] = 0.0,
    minimum_sites: Annotated[int, typer.Option(help="With fewer sites nothing is estimated.")] = 16,
    published: Annotated[
        list[str] | None,
        typer.Option(help="Use this field instead of an estimate, `channel=file`; repeat."),
    ] = None,
) -> None:
    """Estimate the uneven illumination of every channel of a plate."""
    from cellpipe import illumination as stage

    stage.illumination(
        sites,
        output=output,
        camera_offset=camera_offset,
        minimum_sites=minimum_sites,
        published={name: Path(file) for name, file in _pairs("--published", published).items()},
    )


@app.command()
def segment(
    sites: Annotated[Path, typer.Argument(help="The plate's site table.")],
    illumination: Flat,
    output: Annotated[Path, typer.Option(help="Cell table to write (.parquet).")],
    nucleus_diameter: Annotated[float, typer.Option(min=1, help="Typical nucleus diameter.")],
    diameter_unit: Annotated[str, typer.Option(help="um or px.")] = "um",
    channel: Annotated[str, typer.Option(help="Channel that shows the nuclei.")] = "DNA",
    jobs: Jobs = 1,
) -> None:
    """Label the nuclei of a plate and measure where they are."""
    from cellpipe import segment as stage

    stage.segment(
        sites,
        illumination=illumination,
        output=output,
        nucleus_diameter=nucleus_diameter,
        diameter_unit=diameter_unit,
        channel=channel,
        jobs=jobs,
    )


@app.command()
def crops(
    cells: Annotated[Path, typer.Argument(help="The plate's cell table, from `segment`.")],
    sites: Sites,
    illumination: Flat,
    output: Annotated[Path, typer.Option(help="Crop store to write (.zarr).")],
    size_px: Annotated[int, typer.Option(min=8, help="Side of a crop in pixels.")],
    jobs: Jobs = 1,
) -> None:
    """Cut a square around every nucleus."""
    from cellpipe import crops as stage

    stage.crops(
        cells, sites=sites, illumination=illumination, output=output, size_px=size_px, jobs=jobs
    )


@app.command()
def split(
    cells: Annotated[list[Path], typer.Argument(help="Cell tables of all plates.")],
    output: Annotated[Path, typer.Option(help="Split to write (.csv).")],
    name: Annotated[
        str, typer.Option(help="well (hold wells out), plate, or paper (random cells).")
    ] = "well",
    label: Annotated[str, typer.Option(help="Column with the class.")] = "Metadata_pert_name",
    only: Annotated[
        list[str] | None, typer.Option("--class", help="Deal only this class; repeat.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Deal the cells into train, val and test."""
    from cellpipe import split as stage

    stage.split(cells, output=output, name=name, label=label, classes=only or (), seed=seed)


@app.command()
def train(
    crops: Annotated[list[Path], typer.Argument(help="Crop stores of all plates.")],
    split: SplitFile,
    output: Annotated[Path, typer.Option(help="Model folder to write.")],
    checkpoints: Annotated[
        Path, typer.Option(help="Folder of checkpoints and curves; a killed run resumes from it.")
    ],
    architecture: Annotated[
        str, typer.Option(help="Name of a FastChannelVim.")
    ] = "fastchannelvim_small_patch16",
    scale: Annotated[
        str, typer.Option(help="Scale pixels by the statistics of each plate, or of all training.")
    ] = "plate",
    model: Annotated[
        list[str] | None, typer.Option(help="Option of the model, `key=value`; repeat.")
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="Option of the recipe, `key=value`; repeat. Example: epochs=30."),
    ] = None,
    augment: Annotated[
        list[str] | None, typer.Option(help="Option of the augmentation, `key=value`; repeat.")
    ] = None,
) -> None:
    """Train a FastChannelVim to tell the classes of a split apart.

    Run it under `accelerate launch` or `torchrun --no-python` for several GPUs.
    """
    from cellpipe import train as stage

    stage.train(
        crops,
        split=split,
        output=output,
        checkpoints=checkpoints,
        architecture=architecture,
        scale=scale,
        model_options=_values("--model", model),
        recipe_options=_values("--recipe", recipe),
        augment_options=_values("--augment", augment),
    )


@app.command()
def embed(
    inputs: Annotated[
        list[Path], typer.Argument(help="Crop stores (cells) or site tables (fields) of plates.")
    ],
    model: ModelFolder,
    output: Annotated[Path, typer.Option(help="Folder for one <plate>.h5ad a plate.")],
    mode: Annotated[Mode, typer.Option(help="Cells from crops, or whole fields.")] = Mode.cells,
    illumination: Annotated[
        list[Path] | None,
        typer.Option(help="For fields: flat fields, one a plate in the same order."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Embed plates whose file exists already.")
    ] = False,
) -> None:
    """Embed plates with a trained model, one AnnData file a plate.

    On a GPU, where there is one, with matrix products in bfloat16; on a CPU in float32, faster
    where there is a C compiler.
    """
    from cellpipe import embed as stage

    stage.embed(
        inputs,
        model=model,
        output=output,
        mode=mode.value,
        illumination=illumination or (),
        overwrite=overwrite,
    )


@app.command()
def profile(
    embeddings: Annotated[list[Path], typer.Argument(help="Embeddings of all plates (.h5ad).")],
    wells: Annotated[Path, typer.Option(help="Well profiles to write (.h5ad).")],
    perturbations: Annotated[Path, typer.Option(help="Perturbation profiles to write (.h5ad).")],
    sites: Annotated[
        list[Path] | None, typer.Option(help="Site tables; tells which wells held no cell. Repeat.")
    ] = None,
) -> None:
    """Average cells to wells, standardise on each plate's negative controls, average replicates."""
    from cellpipe import profile as stage

    stage.profile(embeddings, wells=wells, perturbations=perturbations, sites=sites or ())


@app.command()
def evaluate(
    embeddings: Annotated[list[Path], typer.Argument(help="Embeddings of all plates (.h5ad).")],
    wells: Annotated[Path, typer.Option(help="Well profiles, from `profile`.")],
    split: SplitFile,
    model: ModelFolder,
    metrics: Annotated[Path, typer.Option(help="Metrics to write (.json).")],
    predictions: Annotated[Path, typer.Option(help="Predictions to write (.parquet).")],
    replicability: Annotated[Path, typer.Option(help="mAP a perturbation to write (.csv).")],
    dose_column: Annotated[
        str | None, typer.Option(help="Numeric obs column whose read-out is scored.")
    ] = None,
) -> None:
    """Score the embeddings: held-out accuracy, nearest neighbours, replicate mAP."""
    from cellpipe import evaluate as stage

    stage.evaluate(
        embeddings,
        wells=wells,
        split=split,
        model=model,
        output=metrics,
        predictions=predictions,
        replicability=replicability,
        dose_column=dose_column,
    )


def _platemap_columns(
    columns: Sequence[str] | None, types: Sequence[str] | None
) -> "PlatemapColumns | None":
    from cellpipe.platemap import PlatemapColumns

    if not columns and not types:
        return None
    try:
        return PlatemapColumns(
            **_pairs("--platemap-column", columns), types=_pairs("--pert-type", types)
        )
    except TypeError as error:
        raise CellpipeValueError(
            f"--platemap-column: {error}; it knows pert_name, pert_type and target"
        ) from error


def _pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise CellpipeValueError(f"{option}: expected `key=value`, got {text!r}")
        pairs[key] = value
    return pairs


def _values(option: str, texts: Sequence[str] | None) -> dict[str, object]:
    """Pairs whose values are JSON (1e-6, null, [0.9, 0.95]) or YAML (False, text)."""
    import yaml

    values: dict[str, object] = {}
    for key, value in _pairs(option, texts).items():
        try:
            values[key] = json.loads(value)
        except json.JSONDecodeError:
            values[key] = yaml.safe_load(value)
    return values


def main() -> None:
    """Run the command; what goes wrong by the user's files or options is one line."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        app()
    except CellpipeError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(f"error: no space left on the disk while writing {error.filename or 'output'}")

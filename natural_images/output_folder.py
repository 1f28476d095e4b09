"""Where a run may write: its folder replaces whatever has that name when training has ended."""

from pathlib import Path

from natural_images.errors import NaturalImagesValueError

DESCRIPTIONS = ("natural_images.json", "pretraining.json")
"""Files by which a folder that an earlier run wrote is known."""


def check_places(output: Path, checkpoints: Path) -> None:
    """Raise NaturalImagesValueError where writing `output` would delete what is no model.

    That is the run itself, where `checkpoints` is `output` or lies below it, or anything in
    `output` that is not the folder of an earlier run.
    """
    output, checkpoints = Path(output), Path(checkpoints)
    if checkpoints.resolve().is_relative_to(output.resolve()):
        raise NaturalImagesValueError(
            f"--checkpoints: expected a folder outside of --output {output}, which is replaced "
            f"when training has ended, got {checkpoints}. Name {output}_run, say"
        )
    if not output.exists() or any((output / name).is_file() for name in DESCRIPTIONS):
        return
    if not output.is_dir() or any(output.iterdir()):
        raise NaturalImagesValueError(
            f"--output: expected a new folder, or one of an earlier run, got {output}, which is "
            f"{'neither' if output.is_dir() else 'a file'} and would be replaced. Name another "
            f"one or delete it; checkpoints stay in {checkpoints}"
        )

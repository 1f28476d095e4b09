"""One detection experiment: which model, which images, which numbers, as one small YAML says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastvim.training import Recipe
from natural_images.detection.augment import AugmentSection
from natural_images.detection.head_section import HeadSection
from natural_images.errors import NaturalImagesValueError
from natural_images.experiment import ModelSection
from natural_images.sections import read_sections


@dataclass(frozen=True)
class DataSection:
    """Where the images are and how they are read.

    path
        A folder in the layout of `natural_images.detection.coco.open_coco`.
    images_at_once
        The most images that a process trains on at once; a larger share of the batch is accumulated
        in parts. None splits as ``recipe.accumulation`` says.
    """

    path: Path
    images_at_once: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | Path) or not str(self.path):
            raise NaturalImagesValueError(f"path: expected a folder, got {self.path!r}")
        most = self.images_at_once
        whole = isinstance(most, int) and not isinstance(most, bool)
        if most is not None and not (whole and most >= 1):
            raise NaturalImagesValueError(
                f"images_at_once: expected none or a whole number from 1, got {most!r}"
            )
        object.__setattr__(self, "path", Path(self.path))


@dataclass(frozen=True)
class DetectionExperiment:
    """What a YAML and the options of a command ask for, checked.

    path
        The YAML.
    model
        A dense backbone of fastvim; its ``img_size`` is ``augment.size`` and its map the last
        block's unless the options say otherwise.
    initial
        Weights that the backbone starts from: a published checkpoint, or a model folder of ours.
    """

    path: Path
    model: ModelSection
    heads: HeadSection
    data: DataSection
    augment: AugmentSection
    recipe: Recipe
    initial: Path | None = None


SECTIONS: dict[str, type] = {
    "model": ModelSection,
    "heads": HeadSection,
    "data": DataSection,
    "augment": AugmentSection,
    "recipe": Recipe,
}


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> DetectionExperiment:
    """Read an experiment with all that it inherits.

    Parameters
    ----------
    path
        The YAML; ``base: other.yaml`` in it names one that it changes in some keys.
    overrides
        ``section.key=value`` texts that win over the files.

    Relative paths to images and weights start at the working directory.

    Raises
    ------
    NaturalImagesValueError
        An unknown key, a missing one, or a wrong value; names the file and the key.
    NaturalImagesDataError
        A file that is absent, not YAML, or inherits from itself.
    """
    path = Path(path)
    built = read_sections(path, overrides, SECTIONS, plain=["initial"])
    initial = built.pop("initial")
    if initial is not None and not (isinstance(initial, str) and initial):
        raise NaturalImagesValueError(
            f"{path}: initial: expected a checkpoint file or a model folder, got {initial!r}"
        )
    return DetectionExperiment(
        path=path, initial=Path(initial) if initial is not None else None, **built
    )

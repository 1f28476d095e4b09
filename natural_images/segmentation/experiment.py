"""One segmentation experiment: which model, which images, which numbers, as one small YAML says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvim.training import Recipe
from natural_images.errors import NaturalImagesValueError
from natural_images.experiment import ModelSection
from natural_images.sections import read_sections
from natural_images.segmentation.augment import AugmentSection
from natural_images.segmentation.inference import TestSection
from natural_images.segmentation.upernet import HeadSection


@dataclass(frozen=True)
class DataSection:
    """Where the images are and how they are read.

    path
        A folder in the layout of `natural_images.segmentation.ade20k.open_ade20k`.
    classes
        How many there must be; None takes as many as are named there.
    images_at_once
        The most images that a process trains on at once; a larger share of the batch is accumulated
        in parts. None splits as ``recipe.accumulation`` says.
    """

    path: Path
    classes: int | None = None
    images_at_once: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | Path) or not str(self.path):
            raise NaturalImagesValueError(f"path: expected a folder, got {self.path!r}")
        for key in ("classes", "images_at_once"):
            value = getattr(self, key)
            if value is not None and not _is_whole(value):
                raise NaturalImagesValueError(
                    f"{key}: expected none or a whole number from 1, got {value!r}"
                )
        object.__setattr__(self, "path", Path(self.path))


@dataclass(frozen=True)
class SegmentationExperiment:
    """What a YAML and the options of a command ask for, checked.

    path
        The YAML.
    model
        A dense backbone of fastvim; its ``img_size`` is the crop unless the options say otherwise.
    test
        How validation images are segmented, and those of later evaluations.
    initial
        Weights that the backbone starts from: a published checkpoint, or a model folder of ours.
    """

    path: Path
    model: ModelSection
    heads: HeadSection
    data: DataSection
    augment: AugmentSection
    test: TestSection
    recipe: Recipe
    initial: Path | None = None


SECTIONS: dict[str, type] = {
    "model": ModelSection,
    "heads": HeadSection,
    "data": DataSection,
    "augment": AugmentSection,
    "test": TestSection,
    "recipe": Recipe,
}


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> SegmentationExperiment:
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
    model = built.pop("model")
    options = {} if model.options is None else model.options
    if not isinstance(model.name, str) or not isinstance(options, Mapping):
        raise NaturalImagesValueError(
            f"{path}: model: expected a model's name and a mapping of options, got {model.name!r} "
            f"and {options!r}"
        )
    return SegmentationExperiment(
        path=path,
        model=ModelSection(model.name, options),
        initial=Path(initial) if initial is not None else None,
        **built,
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1

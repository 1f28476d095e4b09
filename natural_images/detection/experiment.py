"""One detection experiment: which model, which images, which numbers, as one small YAML says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastvim.training import Recipe
from natural_images.dense_experiment import DataSection, DenseExperiment, read_dense
from natural_images.detection.augment import AugmentSection
from natural_images.detection.head_section import HeadSection
from natural_images.experiment import ModelSection


@dataclass(frozen=True, kw_only=True)
class DetectionExperiment(DenseExperiment):
    """Cascade Mask R-CNN on a backbone of one map, the last block's unless its options say more."""

    heads: HeadSection
    augment: AugmentSection


SECTIONS: dict[str, type] = {
    "model": ModelSection,
    "heads": HeadSection,
    "data": DataSection,
    "augment": AugmentSection,
    "recipe": Recipe,
}


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> DetectionExperiment:
    """Read an experiment with all that it inherits; see `read_dense` for what is raised.

    `overrides` are ``section.key=value`` texts that win over the files. Relative paths to images
    and weights start at the working directory.
    """
    return DetectionExperiment(**read_dense(path, overrides, SECTIONS))

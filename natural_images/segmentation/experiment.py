"""One segmentation experiment: which model, which images, which numbers, as one small YAML says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastvim.training import Recipe
from natural_images.dense_experiment import DataSection, DenseExperiment, read_dense
from natural_images.experiment import ModelSection
from natural_images.segmentation.augment import AugmentSection
from natural_images.segmentation.inference import TestSection
from natural_images.segmentation.upernet import HeadSection


@dataclass(frozen=True, kw_only=True)
class SegmentationExperiment(DenseExperiment):
    """UPerNet on a backbone of several maps.

    test
        How validation images are segmented, and those of later evaluations.
    """

    heads: HeadSection
    augment: AugmentSection
    test: TestSection


SECTIONS: dict[str, type] = {
    "model": ModelSection,
    "heads": HeadSection,
    "data": DataSection,
    "augment": AugmentSection,
    "test": TestSection,
    "recipe": Recipe,
}


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> SegmentationExperiment:
    """Read an experiment with all that it inherits; see `read_dense` for what is raised.

    `overrides` are ``section.key=value`` texts that win over the files. Relative paths to images
    and weights start at the working directory.
    """
    return SegmentationExperiment(**read_dense(path, overrides, SECTIONS))

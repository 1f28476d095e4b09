"""The encoder of a pre-training run as a classifier."""

import hashlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import fastvim
from fastvim.classifier import FastVim, ImageClassifier, Vim
from fastvim.pretrained import WEIGHTS
from fastvim.registry import MODELS
from natural_images.classification.architectures import check_size, create_classifier
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError

if TYPE_CHECKING:
    from natural_images.experiment import Experiment


def classifier_from(experiment: "Experiment", classes: int) -> ImageClassifier:
    """Build the experiment's classifier with the encoder of its `initial` and a new head.

    Positions, fixed in pre-training, are trainable from here on, and resized where the images have
    another size. Raises NaturalImagesDataError where the weights are not there or do not fit, and
    NaturalImagesValueError for a model that is none of ours or images smaller than its patches.
    """
    file = _weights(experiment)
    name = experiment.model.name
    known, options = MODELS.get(name, (None, {}))
    if known not in (FastVim, Vim):
        names = [name for name, (model, _) in MODELS.items() if model in (FastVim, Vim)]
        raise NaturalImagesValueError(
            f"{experiment.path}: model.name: expected one of {names}, got {name!r}"
        )
    try:
        with warnings.catch_warnings():
            # The head is new, the decoder is not used, and all else is checked below.
            warnings.simplefilter("ignore", UserWarning)
            model = fastvim.load_published(
                file,
                into="classifier",
                family="vim" if known is Vim else "fastvim",
                shifted_positions=experiment.shifted_positions,
                **{
                    "num_classes": classes,
                    "img_size": experiment.data.size,
                    **options,
                    **experiment.model.options,
                },
            )
    except (TypeError, ValueError, RuntimeError) as error:
        raise NaturalImagesDataError(
            f"{file}: does not fit {name} of {experiment.path}: {error}"
        ) from error
    missing = [key for key in model.load_report.missing if not key.startswith("head.")]
    if missing:
        raise NaturalImagesDataError(
            f"{file}: expected all weights of {name} but the head's, got none for {missing[:5]}"
        )
    assert isinstance(model, ImageClassifier)
    check_size(model, experiment.data.size, "data.size")
    return model


def untrained_classifier(experiment: "Experiment", classes: int) -> ImageClassifier:
    """The same classifier as it is before any training, for a probe to compare with."""
    model = create_classifier(
        experiment.model.name,
        num_classes=classes,
        size=experiment.data.size,
        options=experiment.model.options,
    )
    if not isinstance(model, ImageClassifier):
        raise NaturalImagesValueError(
            f"{experiment.path}: model.name: expected a FastVim or Vim, got "
            f"{experiment.model.name!r}"
        )
    return model


def digest(experiment: "Experiment") -> str:
    """SHA-256 of the weights that an experiment starts from, so that no other run is resumed."""
    with _weights(experiment).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _weights(experiment: "Experiment") -> Path:
    initial = experiment.initial
    assert initial is not None  # a checked experiment of these tasks has one
    file = initial / WEIGHTS if initial.is_dir() else initial
    if not file.is_file():
        raise NaturalImagesDataError(
            f"{experiment.path}: initial: expected the folder of a pre-training run or a "
            f"checkpoint file, got {initial}, where there is no {file.name}. Run "
            "`natural-images pretrain` first, or set it with --set initial=…"
        )
    return file

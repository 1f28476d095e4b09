"""Weights that the backbone of a segmenter or a detector starts from."""

import hashlib
import warnings
from pathlib import Path

import fastvim
from fastvim.dense import DenseBackbone, DenseVim
from fastvim.pretrained import WEIGHTS
from natural_images.errors import NaturalImagesDataError


def load_backbone(backbone: DenseBackbone, initial: Path) -> None:
    """Load the weights of a trained model into `backbone`, in place.

    Parameters
    ----------
    initial
        A published checkpoint file, of ImageNet as a rule, or a model folder of ours: of a
        classifier, a pre-training run, a segmenter or a detector. Positions are resized to the
        backbone's images. RMSNorm's weights go into LayerNorm, whose biases stay at nought, as in
        the published runs; the norms of the maps start anew where a classifier has none.

    Raises
    ------
    NaturalImagesDataError
        The weights are not there, or do not fit the backbone.
    """
    file = _weights(initial)
    try:
        with warnings.catch_warnings():
            # What is missing is checked below, and heads are not used.
            warnings.simplefilter("ignore", UserWarning)
            loaded = fastvim.load_published(
                file,
                into="dense",
                family="vim" if isinstance(backbone, DenseVim) else "fastvim",
                **backbone.options,
            )
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise NaturalImagesDataError(
            f"{initial}: does not fit the backbone of the experiment: {error}"
        ) from error
    missing = [
        name
        for name in loaded.load_report.missing
        if not (name.startswith("outnorm_") or name.endswith("norm.bias"))
    ]
    if missing:
        raise NaturalImagesDataError(
            f"{initial}: expected all weights of the backbone but the norms of its maps, got none "
            f"for {missing[:5]}. Use a model of the same size, patches and options"
        )
    deeper = [name for name in loaded.load_report.unexpected if name.startswith("layers.")]
    if deeper:
        raise NaturalImagesDataError(
            f"{initial}: expected a model of {len(backbone.layers)} blocks as in the experiment, "
            f"got more, {deeper[0]} for one. Use a model of the same size, patches and options"
        )
    backbone.load_state_dict(loaded.state_dict())


def digest(initial: Path) -> str:
    """SHA-256 of the weights that an experiment starts from, so that no other run is resumed."""
    with _weights(initial).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _weights(initial: Path) -> Path:
    path = Path(initial).expanduser()
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise NaturalImagesDataError(
            f"initial: expected a checkpoint file or a folder with {WEIGHTS}, got {initial}"
        )
    return file

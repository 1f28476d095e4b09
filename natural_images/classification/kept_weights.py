"""Which weights a classifier brings: those after its last step, their moving average, or both."""

from pathlib import Path

from fastvim.checkpoint_file import read_tensors
from natural_images.classification.model_files import AVERAGED, EMA_ENTRY, Weights
from natural_images.errors import NaturalImagesDataError


def kept_weights(path: Path) -> list[Weights]:
    """Kinds of weights in a model folder or a published checkpoint file, the plain ones first.

    Raises NaturalImagesDataError for a file that holds no weights. That `load_model` can build a
    classifier of them is not looked at here.
    """
    path = Path(path)
    if not path.is_file():
        return ["plain", "ema"] if (path / AVERAGED).is_file() else ["plain"]
    try:
        entries = set(read_tensors(path))
    except (OSError, ValueError) as error:
        raise NaturalImagesDataError(f"{path}: no image classifier to load ({error})") from error
    if EMA_ENTRY not in entries:
        return ["plain"]
    return ["plain", "ema"] if entries & {"state_dict", "model"} else ["ema"]

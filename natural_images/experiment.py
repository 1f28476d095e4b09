"""One experiment: which model, which images, which numbers, as one small YAML says it."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from natural_images.config_file import Layer, check_keys, merge, read_layers
from natural_images.errors import NaturalImagesValueError

if TYPE_CHECKING:
    from fastvim.training import Recipe
    from natural_images.classification.augment import Augment

Task = Literal["supervised", "pretrain", "finetune", "probe"]

RANDOM = "random"
"""As `initial` of a probe: weights that were never trained, for comparison."""


@dataclass(frozen=True)
class ModelSection:
    """Name of a model of fastvim or timm, and options of its constructor.

    Classes and image size come from `DataSection`, unless the options say otherwise.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options = {} if self.options is None else self.options
        if not isinstance(self.name, str) or not isinstance(options, Mapping):
            raise NaturalImagesValueError(
                f"expected a model's name and a mapping of options, got {self.name!r} and "
                f"{options!r}"
            )
        object.__setattr__(self, "options", options)


@dataclass(frozen=True)
class DataSection:
    """Where the images are and how they are read.

    path
        A folder of images; its layout is recognised.
    classes
        How many there must be; None takes what is found.
    size
        Side in px of the images that the model sees.
    quarantine
        Folder of ``natural-images check``, whose tables name images that are left out.
    images_at_once
        The most images that a process trains on at once; a larger share of the batch is accumulated
        in parts. None splits as ``recipe.accumulation`` says. Each of ``recipe.num_workers``
        processes reads two such parts ahead: 1024 images of 224 px are 154 MB.
    """

    path: Path
    classes: int | None = None
    size: int = 224
    quarantine: Path | None = None
    images_at_once: int | None = None


@dataclass(frozen=True)
class MaskingSection:
    """Pre-training: part of the patches that is removed, and epochs from picture to picture."""

    mask_ratio: float = 0.75
    pictures_every: int = 20


@dataclass(frozen=True)
class Experiment:
    """What a YAML and the options of a command ask for, checked.

    path
        The YAML.
    initial
        For fine-tuning and probes: folder of a pre-training run, or a published checkpoint file;
        "random" for a probe of untrained weights.
    shifted_positions
        Give a Vim the positions of its pre-training one row off, as the published fine-tuning did.
    """

    path: Path
    task: Task
    model: ModelSection
    data: DataSection
    augment: "Augment"
    recipe: "Recipe"
    masking: MaskingSection
    initial: Path | None = None
    shifted_positions: bool = False


SECTIONS: dict[str, type] = {"model": ModelSection, "data": DataSection, "masking": MaskingSection}
TOP_KEYS = [field.name for field in fields(Experiment) if field.name != "path"]


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
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
    layers = read_layers(Path(path), overrides)
    check_keys(layers, TOP_KEYS)
    for section, kind in SECTIONS.items():
        check_keys(layers, (field.name for field in fields(kind)), section)
    values = merge(layers)
    model, data, masking = (_mapping(path, values, name) for name in SECTIONS)
    _check_text(path, "task", values.get("task"), get_args(Task))
    _check(path, "model.name", _is_name(model.get("name")), "a model's name", model.get("name"))
    _check(path, "model.options", _is_options(model), "a mapping", model.get("options"))
    _check(path, "data.path", _is_name(data.get("path")), "a folder", data.get("path"))
    _check_initial(path, values)
    shifted = values.get("shifted_positions", False)
    _check(path, "shifted_positions", isinstance(shifted, bool), "true or false", shifted)

    recipe, augment = _numbers(path, layers, values)
    return Experiment(
        path=Path(path),
        task=values["task"],
        model=ModelSection(model["name"], model.get("options") or {}),
        data=_data(path, data),
        augment=augment,
        recipe=recipe,
        masking=_masking(path, masking),
        initial=Path(values["initial"]) if values.get("initial") is not None else None,
        shifted_positions=shifted,
    )


def expect_task(experiment: Experiment, *tasks: Task) -> None:
    """Raise NaturalImagesValueError where an experiment is for another command."""
    commands = {"supervised": "train"}
    if experiment.task not in tasks:
        command = commands.get(experiment.task, experiment.task)
        raise NaturalImagesValueError(
            f"{experiment.path}: expected task {' or '.join(tasks)}, got {experiment.task}. "
            f"Run it with `natural-images {command}`"
        )


def expect_no_averaging(experiment: Experiment) -> None:
    """Raise NaturalImagesValueError where a recipe averages weights that would not be written."""
    if experiment.recipe.ema_decay is not None:
        raise NaturalImagesValueError(
            f"{experiment.path}: recipe.ema_decay: expected none for task {experiment.task}, got "
            f"{experiment.recipe.ema_decay}. Remove it"
        )


def _numbers(
    path: Path, layers: Sequence[Layer], values: Mapping[str, Any]
) -> tuple["Recipe", "Augment"]:
    # Here, because both come with PyTorch: what is wrong above is said before that is imported.
    from fastvim.training import Recipe
    from natural_images.classification.augment import Augment

    def build(kind: type, section: str) -> Any:
        check_keys(layers, [field.name for field in fields(kind)], section)
        try:
            return kind(**_mapping(path, values, section))
        except (TypeError, ValueError) as error:
            raise NaturalImagesValueError(f"{path}: {section}: {error}") from error

    return build(Recipe, "recipe"), build(Augment, "augment")


def _data(path: Path, values: Mapping[str, Any]) -> DataSection:
    for key, least, optional in (
        ("classes", 1, True),
        ("size", 1, False),
        ("images_at_once", 1, True),
    ):
        value = values.get(key, None if optional else 1)
        valid = (optional and value is None) or _is_whole(value, least)
        _check(path, f"data.{key}", valid, f"a whole number from {least}", value)
    quarantine = values.get("quarantine")
    return DataSection(
        **{
            **values,
            "path": Path(values["path"]),
            "quarantine": Path(quarantine) if quarantine is not None else None,
        }
    )


def _masking(path: Path, values: Mapping[str, Any]) -> MaskingSection:
    section = MaskingSection(**values)
    ratio, every = section.mask_ratio, section.pictures_every
    number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
    valid = number and 0 < ratio < 1
    _check(path, "masking.mask_ratio", valid, "a number between 0 and 1", ratio)
    _check(path, "masking.pictures_every", _is_whole(every, 1), "a whole number from 1", every)
    return section


def _check_initial(path: Path, values: Mapping[str, Any]) -> None:
    task, initial = values["task"], values.get("initial")
    if task in ("finetune", "probe"):
        expected = "the folder of a pre-training run (natural-images pretrain) or a checkpoint file"
        _check(path, "initial", _is_name(initial), expected, initial)
        _check(
            path,
            "initial",
            task == "probe" or initial != RANDOM,
            f"{expected}; only a probe starts from {RANDOM!r} weights",
            initial,
        )
    else:
        _check(path, "initial", initial is None, f"none for task {task}", initial)


def _mapping(path: Path, values: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    found = values.get(section) or {}
    _check(path, section, isinstance(found, Mapping), "keys and values", found)
    return found


def _check_text(path: Path, key: str, value: Any, known: Iterable[str]) -> None:
    names = list(known)
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    _check(path, key, value in names, f"one of {names}{hint}", value)


def _check(path: Path, key: str, valid: bool, expected: str, value: Any) -> None:
    if not valid:
        raise NaturalImagesValueError(f"{path}: {key}: expected {expected}, got {value!r}")


def _is_name(value: Any) -> bool:
    return isinstance(value, str | Path) and bool(str(value))


def _is_options(model: Mapping[str, Any]) -> bool:
    return isinstance(model.get("options") or {}, Mapping)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least

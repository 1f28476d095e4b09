"""An experiment's YAML as frozen dataclasses, one a section."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from natural_images.config_file import check_keys, merge, read_layers
from natural_images.errors import NaturalImagesValueError


def read_sections(
    path: Path,
    overrides: Sequence[str],
    sections: Mapping[str, type],
    *,
    plain: Sequence[str] = (),
) -> dict[str, Any]:
    """Read an experiment with all that it inherits.

    Parameters
    ----------
    path
        The YAML; ``base: other.yaml`` in it names one that it changes in some keys.
    overrides
        ``section.key=value`` texts that win over the files.
    sections
        Dataclass of each section; it checks its values by itself and raises ValueError or
        TypeError. A section that no file has takes the defaults.
    plain
        Keys of the top that are no sections; None where no file has them.

    Returns
    -------
    One object a section, and the plain values.

    Raises
    ------
    NaturalImagesValueError
        An unknown key, a missing one, or a wrong value; names the file and the key.
    NaturalImagesDataError
        A file that is absent, not YAML, or inherits from itself.
    """
    layers = read_layers(Path(path), overrides)
    check_keys(layers, [*sections, *plain])
    for section, kind in sections.items():
        check_keys(layers, (field.name for field in fields(kind)), section)
    values = merge(layers)
    built: dict[str, Any] = {key: values.get(key) for key in plain}
    for section, kind in sections.items():
        given = values.get(section) or {}
        try:
            built[section] = kind(**given)
        except (TypeError, ValueError) as error:
            raise NaturalImagesValueError(f"{path}: {section}: {error}") from error
    return built

"""CellProfiler's LoadData tables, as JUMP publishes one for every plate.

One row per field of view; for each channel ``FileName_<X>`` and ``PathName_<X>``, or ``URL_<X>``,
where X is ``Orig<channel>``. Columns of illumination functions, ``Illum<channel>``, hold no images.
"""

from collections import defaultdict
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from urllib.parse import unquote, urlparse

import pandas as pd

from cellpipe import schema
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.readers.images import ImageFile, PlateFiles, choose_pixel_size, name_channels

FILE_NAMES = ("load_data.csv", "load_data.csv.gz", "load_data.parquet")


def find_load_data(source: Path) -> Path | None:
    """Return the load_data table that `source` is or, as a folder, holds, if there is one."""
    if source.is_file():
        return source if source.name.endswith((".csv", ".csv.gz", ".parquet")) else None
    return next((source / name for name in FILE_NAMES if (source / name).is_file()), None)


def read_load_data(
    source: Path,
    *,
    plate: str | None,
    channels: Mapping[str, str] | None,
    pixel_size_um: float | None,
    image_root: Path | None,
) -> PlateFiles:
    """Read a load_data table (CSV or Parquet), or the one in a folder.

    Parameters
    ----------
    plate
        The plate to take, where the table holds several.
    channels
        New names by the table's names, the prefix ``Orig`` left out.
    pixel_size_um
        Used where the table has no ``Metadata_ImageResolutionX`` (metres).
    image_root
        Folder that holds the images, at any depth, where the table's paths are those of another
        machine. Files are found by name; of several with one name, the one whose folders agree
        with the table's path for longest.

    Raises
    ------
    CellpipeDataError
        If a column is missing, or a file name under `image_root` cannot be told apart.
    CellpipeValueError
        If the table holds other plates, or `image_root` is no folder.
    """
    path = find_load_data(source)
    if path is None:
        raise CellpipeDataError(f"{source} is no load_data table and holds none of {FILE_NAMES}")
    table = _read(path)
    columns = _image_columns(table, path)
    table, name = _one_plate(table, path, plate)
    names = name_channels({key: key for key in columns}, channels, plate=name)
    locate = _Locator(path.parent, image_root)
    images = []
    for key, (file_column, folder_column) in columns.items():
        folders = table[folder_column] if folder_column else [""] * len(table)
        rows = zip(table[schema.WELL], table[schema.SITE], folders, table[file_column], strict=True)
        images += [
            ImageFile(well, _site(site, path), names[key], locate(folder, file))
            for well, site, folder, file in rows
            if file
        ]
    return PlateFiles(
        name=name,
        layout="load_data",
        channels=tuple(names.values()),
        images=tuple(images),
        pixel_size_um=choose_pixel_size(_pixel_size_um(table, path), pixel_size_um, plate=name),
    )


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path).astype("string").fillna("").astype(object)
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise CellpipeDataError(f"{path} is not a readable table: {error}") from error


def _image_columns(table: pd.DataFrame, path: Path) -> dict[str, tuple[str, str | None]]:
    """Columns of file and folder (None for a URL) by channel, in the table's order."""
    missing = [column for column in (schema.WELL, schema.SITE) if column not in table]
    columns: dict[str, tuple[str, str | None]] = {}
    for column in table.columns:
        kind, _, rest = column.partition("_")
        if kind not in ("FileName", "URL") or rest.startswith("Illum"):
            continue
        channel = rest.removeprefix("Orig")
        if kind == "URL":
            columns.setdefault(channel, (column, None))
        elif f"PathName_{rest}" in table:
            columns[channel] = (column, f"PathName_{rest}")
        else:
            missing.append(f"PathName_{rest}")
    if not columns:
        missing.append("FileName_<channel> with PathName_<channel>, or URL_<channel>")
    if missing:
        raise CellpipeDataError(
            f"{path} has no column {', '.join(missing)}; its columns are {list(table.columns)}"
        )
    return columns


def _one_plate(table: pd.DataFrame, path: Path, plate: str | None) -> tuple[pd.DataFrame, str]:
    if schema.PLATE not in table:
        return table, plate or path.name.partition(".")[0]
    found = list(dict.fromkeys(table[schema.PLATE]))
    if plate is None and len(found) > 1:
        raise CellpipeValueError(f"{path} holds {len(found)} plates, {found}: say which, `plate`")
    if plate is not None and plate not in found:
        raise CellpipeValueError(f"{path}: expected plate {plate!r}, got {found}. Correct `plate`")
    name = found[0] if plate is None else plate
    return table[table[schema.PLATE] == name], name


def _site(text: str, path: Path) -> int:
    try:
        return int(float(text))
    except ValueError as error:
        raise CellpipeDataError(f"{path}: {schema.SITE} is {text!r}, expected a number") from error


def _pixel_size_um(table: pd.DataFrame, path: Path) -> float | None:
    if "Metadata_ImageResolutionX" not in table:
        return None
    sizes = sorted({float(text) * 1e6 for text in table["Metadata_ImageResolutionX"] if text})
    if sizes and sizes[-1] > 1.001 * sizes[0]:
        raise CellpipeDataError(f"{path}: expected one Metadata_ImageResolutionX, got {sizes} um")
    return sizes[0] if sizes else None


class _Locator:
    """Turns the table's folder and file into a path on this machine."""

    def __init__(self, base: Path, image_root: Path | None) -> None:
        self.base = base
        self.image_root = image_root
        self.found: dict[str, list[Path]] = defaultdict(list)
        if image_root is not None:
            if not image_root.is_dir():
                raise CellpipeValueError(f"image_root {image_root} is not a folder")
            for path in image_root.rglob("*"):
                self.found[path.name].append(path)

    def __call__(self, folder: str, file: str) -> Path:
        parsed = urlparse(file)
        if parsed.scheme == "file":
            stated = Path(unquote(parsed.path))
        elif len(parsed.scheme) > 1 and self.image_root is None:
            raise CellpipeValueError(
                f"{file} is not on this machine. Download the images and give their folder as "
                "image_root"
            )
        else:
            stated = Path(folder) / file
        here = self.base / stated
        if self.image_root is None or here.is_file():
            return here
        candidates = self.found.get(stated.name, [])
        if not candidates:
            return self.image_root / stated.name
        agreement = [_common_tail(path, stated) for path in candidates]
        best = [p for p, n in zip(candidates, agreement, strict=True) if n == max(agreement)]
        if len(best) > 1:
            raise CellpipeDataError(
                f"{stated}: image_root holds {len(best)} files of that name, such as {best[0]} and "
                f"{best[1]}. Give the folder of this plate"
            )
        return best[0]


def _common_tail(path: Path, other: Path) -> int:
    """Number of names, from the file upwards, that two paths share."""
    pairs = zip(reversed(path.parts), reversed(other.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

"""Which cells train, which validate and which test: a versioned CSV.

Cells of one well share position, illumination and neighbours, so a split over cells lets a
classifier recognise wells instead of phenotypes. ``well`` (the default) and ``plate`` hold whole
wells or plates out; ``paper`` is the random split over cells under which the published numbers
were obtained, kept for comparison only.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellpipe import schema
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from fastvim.files import atomic_path

log = logging.getLogger(__name__)

VERSION = 1
SPLITS = ("well", "paper", "plate")
COLUMNS = ["cell_id", schema.PLATE, schema.WELL, "label", "split"]


@dataclass(frozen=True)
class Split:
    """A split as read from its file.

    `cells` has the columns of `COLUMNS`, one row a cell; its ``split`` is train, val, test or
    unused. `labels` are the class names, the negative control first.
    """

    name: str
    labels: tuple[str, ...]
    cells: pd.DataFrame

    @classmethod
    def read(cls, path: Path) -> "Split":
        """Read a split; raises CellpipeDataError if the file is not one of this version."""
        with path.open() as file:
            first = file.readline()
            try:
                header = json.loads(first.removeprefix("#"))
                if header["version"] != VERSION:
                    raise KeyError("version")
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise CellpipeDataError(
                    f"{path}: expected a first line '# {{\"version\": {VERSION}, …}}', "
                    f"got {first.strip()[:80]!r}. Write it with `cellpipe split`"
                ) from error
            cells = pd.read_csv(file, dtype=str, keep_default_na=False)
        return cls(header["split"], tuple(header["labels"]), cells)


def split(
    cells: Sequence[Path],
    *,
    output: Path,
    name: str = "well",
    label: str = schema.PERT_NAME,
    classes: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Write the split of all cells of some plates, about 60/20/20 within every class.

    Parameters
    ----------
    cells
        Cell tables of the plates.
    name
        ``well`` deals the wells of each class, ``plate`` the plates as a whole, ``paper`` the
        cells at random.
    label
        Column with the class of a cell. Cells with an empty class are ``unused``.
    classes
        Only these classes are dealt; the cells of others are ``unused``. Empty means all.
    """
    if name not in SPLITS:
        raise CellpipeValueError(f"split.name: expected one of {list(SPLITS)}, got {name!r}")
    table = pd.concat([pd.read_parquet(path) for path in cells], ignore_index=True)
    if label not in table.columns:
        known = [column for column in table.columns if column.startswith("Metadata_")]
        raise CellpipeValueError(
            f"split.label: no column {label!r} in the cell tables, they have {known}. "
            "Was a platemap given at ingest?"
        )
    names = _class_names(table, label)
    absent = sorted(set(classes) - set(names))
    if absent:
        raise CellpipeValueError(
            f"split.classes: {absent} do not occur in {label!r}, which holds {sorted(set(names))}"
        )
    usable = ~table["edge"] & (names.isin(classes) if classes else names != "")
    if not usable.any():
        raise CellpipeDataError(
            f"split: none of {len(table)} cells has a label in {label!r} and lies off the border"
        )
    rng = np.random.default_rng(seed)
    part = pd.Series("unused", index=table.index)
    chosen = table[usable]
    if name == "paper":
        part[usable] = _deal(len(chosen), rng, each_part=False)
    elif name == "well":
        part[usable] = _by_group(chosen, [schema.PLATE, schema.WELL], label, rng)
    else:
        part[usable] = _by_plate(chosen, rng)
    _write(output, table, label, part, {"split": name, "seed": seed, "label": label})


def _class_names(table: pd.DataFrame, label: str) -> pd.Series:
    """Classes of the cells; empty where a plate has none, or the well is empty by its type."""
    names = table[label].astype(object).where(table[label].notna(), "").astype(str)
    if schema.PERT_TYPE in table:
        names = names.mask(table[schema.PERT_TYPE] == "empty", "")
    return names


def _deal(count: int, rng: np.random.Generator, *, each_part: bool) -> np.ndarray:
    """Names of parts for `count` items in random order, 60/20/20.

    With `each_part`, as few as three items fill every part, two fill train and test, and one
    trains: what is never trained on can't be tested, and a test matters more than a validation.
    """
    test = round(0.2 * count)
    val = round(0.2 * count)
    if each_part and count >= 2:
        test = max(1, test)
        val = max(1, val) if count >= 3 else 0
    parts = ["test"] * test + ["val"] * val
    parts += ["train"] * (count - len(parts))
    return rng.permutation(np.array(parts, dtype=object))


def _by_group(
    cells: pd.DataFrame, group: list[str], label: str, rng: np.random.Generator
) -> pd.Series:
    """Deal the groups (wells) of every class; a well has one class by construction."""
    part = pd.Series("", index=cells.index, dtype=object)
    single = []
    for name, members in cells.groupby(label, sort=True):
        wells = members.groupby(group, sort=True).indices
        if len(wells) < 2:
            single.append(str(name))
        for indices, dealt in zip(
            wells.values(), _deal(len(wells), rng, each_part=True), strict=True
        ):
            part[members.index[indices]] = dealt
    if single:
        log.warning("split well: classes with one well only train: %s", ", ".join(single))
    return part


def _by_plate(cells: pd.DataFrame, rng: np.random.Generator) -> pd.Series:
    plates = sorted(cells[schema.PLATE].unique())
    if len(plates) < 2:
        raise CellpipeValueError(
            f"split.name: 'plate' holds plates out and needs at least two, got {plates}. "
            "Use 'well', or list more plates"
        )
    dealt = dict(zip(plates, _deal(len(plates), rng, each_part=True), strict=True))
    return cells[schema.PLATE].map(dealt)


def _write(
    output: Path, table: pd.DataFrame, label: str, part: pd.Series, header: dict[str, object]
) -> None:
    names = _class_names(table, label)
    used = part != "unused"
    types = table.get(schema.PERT_TYPE, pd.Series("", index=table.index))
    controls = sorted(set(names[used & (types == schema.NEGCON)]))
    others = sorted(set(names[used]) - set(controls))
    header = {"version": VERSION, **header, "labels": [*controls, *others]}
    rows = pd.DataFrame(
        {
            "cell_id": table["cell_id"],
            schema.PLATE: table[schema.PLATE],
            schema.WELL: table[schema.WELL],
            "label": names,
            "split": part,
        }
    )
    with atomic_path(output) as temporary, temporary.open("w") as file:
        file.write(f"# {json.dumps(header)}\n")
        rows[COLUMNS].to_csv(file, index=False)
    counts = rows["split"].value_counts()
    wells = rows.drop_duplicates(["split", schema.PLATE, schema.WELL])["split"].value_counts()
    for kind in ("train", "val", "test", "unused"):
        log.info("%s: %d cells in %d wells", kind, counts.get(kind, 0), wells.get(kind, 0))

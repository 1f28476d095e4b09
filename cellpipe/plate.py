"""A plate as every stage after ingest sees it: the site table and the pixels behind it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from cellpipe import schema
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.files import read_table_metadata
from cellpipe.ngff_field import Field, open_field, read_attributes
from fastvim.files import atomic_path

FOREIGN_LAYOUT = "omezarr"
"""Layout of plates that are read where they are and never written to."""


@dataclass(frozen=True, eq=False)
class Plate:
    """One plate: its site table and the pixels behind it.

    `sites` has one row per usable field of view; its columns are described in
    `cellpipe.ingest`. `channels` name the planes of every field, in the store's order.
    `missing_channels` are those that the source promised and held no file of. `path` is the site
    table. Rows of `sites` are counted from 0 by position.
    """

    name: str
    channels: tuple[str, ...]
    pixel_size_um: float | None
    sites: pd.DataFrame
    path: Path
    missing_channels: tuple[str, ...]
    layout: str

    dims = ("channel", "y", "x")

    @classmethod
    def open(cls, sites: Path) -> "Plate":
        """Open a plate by its site table.

        Raises
        ------
        CellpipeDataError
            If the file is not there or is not a site table.
        """
        if not sites.is_file():
            raise CellpipeDataError(f"site table {sites} does not exist. Run `cellpipe ingest`")
        try:
            facts = json.loads(read_table_metadata(sites)["cellpipe"])
            table = pd.read_parquet(sites)
            name = str(table[schema.PLATE].iloc[0])
        except (KeyError, IndexError, ValueError, OSError) as error:
            raise CellpipeDataError(
                f"{sites} is not a site table as `cellpipe ingest` writes it: {error!r}"
            ) from error
        return cls(
            name=name,
            channels=tuple(facts["channels"]),
            pixel_size_um=facts["pixel_size_um"],
            sites=table,
            path=sites,
            missing_channels=tuple(facts["missing_channels"]),
            layout=facts["layout"],
        )

    def read(self, row: int, channels: Sequence[str] | None = None) -> np.ndarray:
        """Pixels (channel, y, x) of the field in row `row`, uint8 or uint16 as stored.

        Parameters
        ----------
        channels
            Names in the order wanted; all of the plate's by default.

        Raises
        ------
        CellpipeValueError
            If the plate has no such channel.
        """
        names = self.channels if channels is None else tuple(channels)
        unknown = [name for name in names if name not in self.channels]
        if unknown:
            raise CellpipeValueError(
                f"plate {self.name} has no channel {', '.join(unknown)}; it has "
                f"{', '.join(self.channels)}"
            )
        return self._field(row).read([self.channels.index(name) for name in names])

    def label_root(self) -> Path:
        """Zarr group under which label images go.

        The plate itself when this project wrote it, else ``<site table>.labels.zarr`` beside the
        site table: somebody else's plate is never written to.
        """
        if self.layout != FOREIGN_LAYOUT:
            return self._store
        return self.path.with_name(f"{self.path.stem}.labels.zarr")

    def write_labels(self, row: int, labels: np.ndarray, name: str = "nuclei") -> None:
        """Write a label image (y, x) uint32 of one field, replacing an older one as a whole.

        It becomes ``<label_root>/<image>/labels/<name>``, OME-Zarr 0.5; 0 is background.
        """
        # Imported here, since ngio takes longer to import than all that reading needs.
        from cellpipe.ngff import VERSION, set_attributes, write_label_image

        expected = int(self.sites["height"].iloc[row]), int(self.sites["width"].iloc[row])
        if labels.shape != expected or labels.dtype != np.uint32:
            raise CellpipeValueError(
                f"plate {self.name}, {self._image(row)}: expected labels of shape {expected} and "
                f"type uint32, got {labels.shape} and {labels.dtype}"
            )
        group = self._labels_group(row)
        with atomic_path(group / name) as temporary:
            write_label_image(temporary, labels, name=name, pixel_size_um=self.pixel_size_um)
        known = (read_attributes(group) or {}).get("labels", [])
        names = known if name in known else [*known, name]
        set_attributes(group, {"ome": {"version": VERSION, "labels": names}})

    def read_labels(self, row: int, name: str = "nuclei") -> np.ndarray:
        """Label image (y, x) uint32 of one field."""
        path = self._labels_group(row) / name
        try:
            return open_field(path).read([0])[0]
        except CellpipeDataError as error:
            raise CellpipeDataError(
                f"plate {self.name}, {self._image(row)} has no labels {name!r}. "
                "Run `cellpipe segment`"
            ) from error

    @cached_property
    def _store(self) -> Path:
        return self.path.parent / str(self.sites["store"].iloc[0])

    def _image(self, row: int) -> str:
        return str(self.sites["image"].iloc[row])

    def _field(self, row: int) -> Field:
        return open_field(self._store / self._image(row))

    def _labels_group(self, row: int) -> Path:
        return self.label_root() / self._image(row) / "labels"

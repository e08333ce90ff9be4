"""Files of points in the formats of viewers and counters: CellCounter XML, cellfinder's YAML, napari's CSV.

CellCounter XML is the format of ImageJ's plugin as BrainGlobe reads and writes it: whole voxels MarkerX, MarkerY and
MarkerZ under a type, 1 for what is no cell, 2 for cells. The YAML of cellfinder (brainglobe-utils 0.11) holds the same as a
list `candidate_cells`. napari's points are rows of `index, axis-0, axis-1, ...`, in the order of the axes.

Points lie in voxels whose centres are whole numbers, so that the nearest voxel is the one a point lies in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from ndbatch.errors import Corrupt, PlanError
from ndbatch.remotes.base import Array

if TYPE_CHECKING:
    import pyarrow as pa

CELL = 2
"""Type of a point where the table has no column `type`: a cell."""


class _Writer(ABC):
    """Points of batches as text, after a head and before an end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w", encoding="utf-8", newline="\n")

    @abstractmethod
    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Write rows with the columns z (0 if absent), y and x in voxels. PlanError for rows that are no points."""

    def close(self) -> None:
        """Write the end, and close the file."""
        self._file.close()

    def _voxels(self, batch: pa.RecordBatch) -> tuple[Array, Array]:
        """Return whole voxels, (n, 3) int64 in the order z, y, x, and types, (n,) int64."""
        places = np.stack([_column(batch, axis, self._path) for axis in "zyx"], axis=1)
        kinds = batch["type"].to_numpy() if "type" in batch.schema.names else np.full(len(places), CELL)
        return np.floor(places + 0.5).astype(np.int64), kinds.astype(np.int64)


def _column(batch: pa.RecordBatch, axis: str, path: Path) -> Array:
    import pyarrow as pa

    if axis not in batch.schema.names:
        if axis == "z" and "y" in batch.schema.names:
            return np.zeros(batch.num_rows)
        raise PlanError(
            f"{path.name.removeprefix('.').removesuffix('.partial')}: points need the columns z, y and x in voxels, and the "
            f"table has {', '.join(batch.schema.names) or 'none'}; write it as .parquet or .csv"
        )
    values: Array = batch[axis].cast(pa.float64()).to_numpy(zero_copy_only=False)
    if not np.isfinite(values).all():
        raise PlanError(f"{path.name}: a point has no {axis}; remove the rows whose {axis} is empty or not finite")
    return values


class _CellCounter(_Writer):
    """CellCounter XML. Points of one type that follow each other share an element."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._kind: int | None = None
        self._file.write(
            '<?xml version="1.0" encoding="UTF-8"?>\n<CellCounter_Marker_File>\n'
            "  <Image_Properties>\n    <Image_Filename>placeholder.tif</Image_Filename>\n  </Image_Properties>\n"
            "  <Marker_Data>\n    <Current_Type>1</Current_Type>\n"
        )

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Write rows."""
        places, kinds = self._voxels(batch)
        for (z, y, x), kind in zip(places.tolist(), kinds.tolist(), strict=True):
            if kind != self._kind:
                self._end_type()
                self._kind = kind
                self._file.write(f"    <Marker_Type>\n      <Type>{kind}</Type>\n")
            self._file.write(
                f"      <Marker>\n        <MarkerX>{x}</MarkerX>\n        <MarkerY>{y}</MarkerY>\n"
                f"        <MarkerZ>{z}</MarkerZ>\n      </Marker>\n"
            )

    def _end_type(self) -> None:
        if self._kind is not None:
            self._file.write("    </Marker_Type>\n")

    def close(self) -> None:
        """End the elements."""
        self._end_type()
        self._file.write("  </Marker_Data>\n</CellCounter_Marker_File>\n")
        super().close()


class _CellfinderYaml(_Writer):
    """The YAML of cellfinder."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._count = 0
        self._file.write("CellCounter_Marker_File: true\n")

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Write rows."""
        places, kinds = self._voxels(batch)
        if len(places) and not self._count:
            self._file.write("candidate_cells:\n")
        for (z, y, x), kind in zip(places.tolist(), kinds.tolist(), strict=True):
            self._file.write(f"- {{x: {x}, y: {y}, z: {z}, type: {kind}, metadata: {{}}}}\n")
        self._count += len(places)

    def close(self) -> None:
        """Write how many they were."""
        if not self._count:
            self._file.write("candidate_cells: []\n")
        self._file.write(f"num_candidates: {self._count}\n")
        super().close()


class _NapariPoints(_Writer):
    """The CSV file of a points layer of napari."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._count = 0
        self._axes = 0

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Write rows; the axes are those of t, z, y and x that the table has."""
        axes = [axis for axis in "tzyx" if axis in batch.schema.names or axis in "yx"]
        if not self._axes:
            self._axes = len(axes)
            self._file.write(",".join(["index", *(f"axis-{i}" for i in range(len(axes)))]) + "\n")
        columns = [_column(batch, axis, self._path).tolist() for axis in axes]
        for row in zip(*columns, strict=True):
            self._file.write(",".join([str(float(self._count)), *map(repr, row)]) + "\n")
            self._count += 1

    def close(self) -> None:
        """Write the head where no row came."""
        if not self._axes:
            self._file.write("index,axis-0,axis-1,axis-2\n")
        super().close()


WRITERS: dict[str, type[_Writer]] = {
    ".xml": _CellCounter,
    ".yml": _CellfinderYaml,
    ".yaml": _CellfinderYaml,
    ".napari.csv": _NapariPoints,
}
"""Writers by ending."""


def read_cellcounter(path: Path) -> dict[str, Any]:
    """Return the columns z, y, x (int64 voxels) and type (int64) of CellCounter XML. Corrupt where it is something else."""
    found: list[list[int]] = []
    try:
        root = ElementTree.parse(path).getroot()
        if root.tag != "CellCounter_Marker_File":
            raise Corrupt(f"{path} is XML, but its root is {root.tag}, not CellCounter_Marker_File")
        for group in root.iter("Marker_Type"):
            kind = _whole(group, "Type")
            found.extend(
                [*(_whole(point, f"Marker{axis}") for axis in "ZYX"), kind] for point in group.findall("Marker")
            )
    except (ElementTree.ParseError, ValueError, OverflowError) as error:
        raise Corrupt(f"{path} is not CellCounter XML: {error}; write it again") from None
    return _columns(found)


def _whole(element: ElementTree.Element, name: str) -> int:
    text = element.findtext(name)
    if text is None:
        raise ValueError(f"a {element.tag} has no {name}")
    return int(np.floor(float(text) + 0.5))


def read_cellfinder_yaml(path: Path) -> dict[str, Any]:
    """Return the columns z, y, x (int64 voxels) and type (int64) of cellfinder's YAML. Corrupt where it is none."""
    import yaml

    try:
        with path.open("rb") as file:
            document = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        cells = document["candidate_cells"]
        return _columns([[int(cell[key]) for key in ("z", "y", "x", "type")] for cell in cells])
    except (yaml.YAMLError, KeyError, TypeError, ValueError, OverflowError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise Corrupt(f"{path} is not a YAML file of cellfinder's with candidate_cells ({first})") from None


def _columns(rows: list[list[int]]) -> dict[str, Any]:
    table = np.array(rows, np.int64).reshape(-1, 4)
    return {name: table[:, place].copy() for place, name in enumerate(("z", "y", "x", "type"))}

"""Tables of points in memory: read from any format, written to any."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ndbatch.errors import Corrupt, NotFound, PlanError
from ndbatch.remotes.base import Array
from ndbatch.tables.markers import read_cellcounter, read_cellfinder_yaml
from ndbatch.tables.writing import table_ending, write_batches

if TYPE_CHECKING:
    import pyarrow as pa


def read_points(path: str | os.PathLike[str]) -> pa.Table:
    """Return the points of a file, a row each: z, y, x in voxels (centres are whole numbers), z_um, y_um, x_um, or both.

    The ending tells the format (`TABLE_ENDINGS`); a CSV file of napari is told by its header, whatever its name. Other
    columns are returned as they are; CellCounter XML and YAML give `type` (int64: 1 is no cell, 2 a cell). Points of a plane
    have no z. Raises NotFound, Corrupt for damage, PlanError for another ending or without coordinates.
    """
    import pyarrow as pa

    place = Path(path).expanduser()
    ending = table_ending(place.name)
    if not place.is_file():
        raise NotFound(f"{place}: there is no such file", path=str(place))
    if ending == ".xml":
        return pa.table(read_cellcounter(place))
    if ending in (".yml", ".yaml"):
        return pa.table(read_cellfinder_yaml(place))
    table = _columns(place, ending)
    if "axis-0" in table.column_names:
        table = _of_napari(table)
    for unit in ("", "_um"):
        if {f"y{unit}", f"x{unit}"} <= set(table.column_names):
            coordinates(table, unit, str(place))
            return table
    raise PlanError(
        f"{place}: points need columns z, y, x or z_um, y_um, x_um; it has {', '.join(table.column_names) or 'none'}"
    )


def write_points(path: str | os.PathLike[str], table: pa.Table) -> None:
    """Write points in the format that the ending of `path` tells, replacing the file at once when it is whole.

    XML and YAML hold the nearest voxel and the type (2 where there is no column `type`), napari's CSV t, z, y and x, the
    others all columns. Raises PlanError for another ending, and where z, y, x are not there for a format that needs them.
    """
    place = Path(path).expanduser()
    ending = table_ending(place.name)
    if ending == ".xml" and "type" in table.column_names:
        table = table.take(np.argsort(table["type"].to_numpy(), kind="stable"))
    partial = place.with_name(f".{place.name}.partial")
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_batches(partial, ending, table.to_batches() or [_no_rows(table)])
        os.replace(partial, place)
    finally:
        partial.unlink(missing_ok=True)


def coordinates(table: pa.Table, unit: str = "", where: str = "table") -> Array:
    """Return the points' coordinates, (n, 3) float64 in the order z, y, x; z is 0 where there is no such column.

    `unit` is the end of the columns' names: "" for voxels, "_um" for micrometres. Raises PlanError where a column is missing,
    is no number, or a value is absent or not finite; `where` names the table.
    """
    import pyarrow as pa

    result = np.zeros((table.num_rows, 3))
    for place, axis in enumerate("zyx"):
        name = f"{axis}{unit}"
        if name not in table.column_names:
            if axis == "z":
                continue
            raise PlanError(f"{where}: there is no column {name}; it has {', '.join(table.column_names)}")
        try:
            result[:, place] = table[name].cast(pa.float64()).to_numpy()
        except (pa.ArrowException, ValueError):
            raise PlanError(f"{where}: the column {name} holds {table[name].type}, not numbers") from None
    if not np.isfinite(result).all():
        raise PlanError(f"{where}: a point has no finite place; remove the rows whose coordinates are empty")
    return result


def _columns(path: Path, ending: str) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        return parquet.read_table(path) if ending == ".parquet" else csv.read_csv(path)
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(f"{path} cannot be read as {ending[1:]}: {str(error).splitlines()[0]}") from None


def _of_napari(table: pa.Table) -> pa.Table:
    """Return napari's columns under the names of axes: the last are z, y, x; `index` only counts the rows."""
    count = sum(name.startswith("axis-") for name in table.column_names)
    names = {f"axis-{i}": axis for i, axis in enumerate("tzyx"[-count:])}
    kept = [name for name in table.column_names if name != "index"]
    return table.select(kept).rename_columns([names.get(name, name) for name in kept])


def _no_rows(table: pa.Table) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_pylist([], schema=table.schema)

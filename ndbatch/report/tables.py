"""Tables of objects as the report reads them: a few columns at a time, in batches, whatever their length.

Quantities are found by the names their columns commonly have, so that tables of users' own functions are described too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndbatch.errors import Corrupt, NotFound, PlanError

Column = NDArray[np.float64]

FINE = 4096
"""Bins in which values are counted, from which medians are read and coarser histograms made."""


@dataclass(frozen=True)
class Table:
    """A parquet or CSV file, opened without reading rows. `rows` is -1 where only counting would tell (CSV)."""

    path: Path
    columns: tuple[str, ...]
    rows: int

    @staticmethod
    def open(path: Path) -> Table:
        """Open the table at `path`; NotFound where there is none, Corrupt where it cannot be read."""
        import pyarrow as pa

        if not path.is_file():
            raise NotFound(f"{path}: there is no table", path=str(path))
        try:
            if path.suffix.lower() == ".csv":
                names = _header(path)
                return Table(path, names, sum(len(batch) for batch in _csv(path, names[:1])) if names else 0)
            import pyarrow.parquet as pq

            with pq.ParquetFile(path) as file:
                return Table(path, tuple(file.schema_arrow.names), int(file.metadata.num_rows))
        except (pa.ArrowException, OSError) as error:
            raise Corrupt(f"{path}: cannot be read as a table: {error}", path=str(path)) from None

    def batches(self, columns: Sequence[str]) -> Iterator[dict[str, Column]]:
        """Yield the numeric `columns` batch by batch as float64, missing values as NaN."""
        if not columns:
            return
        for batch in self._record_batches(list(columns)):
            yield {name: _as_float(batch.column(i)) for i, name in enumerate(batch.schema.names)}

    def head(self, rows: int) -> list[list[Any]]:
        """Return the first `rows` rows as Python values, all columns."""
        found: list[list[Any]] = []
        for batch in self._record_batches(list(self.columns), size=max(rows, 1)):
            part = [list(row.values()) for row in batch.slice(0, rows - len(found)).to_pylist()]
            found += [[_value(text) for text in row] for row in part] if self._is_csv else part
            if len(found) >= rows:
                break
        return found

    def find(self, *names: str) -> str | None:
        """Return the first of `names` that is a column, upper and lower case alike, or None."""
        known = {column.lower(): column for column in self.columns}
        return next((known[name] for name in names if name in known), None)

    @property
    def _is_csv(self) -> bool:
        return self.path.suffix.lower() == ".csv"

    def _record_batches(self, columns: list[str], size: int = 65536) -> Iterator[Any]:
        if self._is_csv:
            yield from _csv(self.path, columns)
            return
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(batch_size=size, columns=columns)


@dataclass(frozen=True)
class Distribution:
    """How the values of one quantity spread: exact count, mean and extremes; median and histogram from fine bins."""

    count: int
    mean: float
    low: float
    high: float
    median: float
    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    title: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Quantity:
    """Something measured of every object: the columns it is computed from, and how."""

    title: str
    unit: str
    columns: tuple[str, ...]
    compute: Callable[[dict[str, Column]], Column]


def plain_column(name: str, title: str, unit: str = "") -> Quantity:
    """Return the quantity that is a column as it stands."""
    return Quantity(title, unit, (name,), lambda batch: batch[name])


def size_quantity(table: Table, ndim: int = 3) -> Quantity | None:
    """Return the size of objects: the equivalent diameter (that of a ball or disc of the same volume), or None."""
    diameter = table.find("equivalent_diameter_um", "diameter_um")
    if diameter is not None:
        return plain_column(diameter, "equivalent diameter", "µm")
    volume = table.find("volume_um3", "area_um2", "volume", "physical_volume")
    unit = "µm"
    if volume is None:
        volume, unit = table.find("voxels", "n_voxels", "size", "area", "count"), "voxels"
    if volume is None:
        return None
    flat = ndim == 2 or volume.lower() in ("area_um2", "area")

    def diameters(batch: dict[str, Column], name: str = volume) -> Column:
        content = np.maximum(batch[name], 0)
        result: Column = np.sqrt(content * (4 / math.pi)) if flat else np.cbrt(content * (6 / math.pi))
        return result

    return Quantity("equivalent diameter", unit, (volume,), diameters)


def intensity_quantities(table: Table) -> list[Quantity]:
    """Return the mean intensities of objects, one for each measured channel."""
    found = table.find("intensity_mean", "mean_intensity", "mean")
    names = [found] if found else [c for c in table.columns if c.lower().endswith(("intensity_mean", "_mean"))][:4]
    return [plain_column(name, name.replace("_", " ") if name != "mean" else "mean intensity") for name in names]


def position_columns(table: Table, axes: str = "zyx") -> dict[str, str]:
    """Return the columns of the centroid by axis name, in voxels; empty where x or y is missing."""
    places = {
        axis: table.find(axis, f"centroid_{axis}", f"{axis}_centroid", f"{axis}_voxel")
        for axis in axes
        if axis in "zyx"
    }
    found = {axis: column for axis, column in places.items() if column is not None}
    return found if {"y", "x"} <= set(found) else {}


def distribution(table: Table, quantity: Quantity, bins: int | None = None) -> Distribution | None:
    """Return how `quantity` spreads over all rows, in two passes over its columns; None where no value is finite.

    The histogram spans the values without the outermost 0.1 % at each end, so that one freak object does not flatten it;
    values beyond are counted in the end bins.
    """
    number, total, low, high = 0, 0.0, math.inf, -math.inf
    for values in _values(table, quantity):
        number += len(values)
        total += float(values.sum())
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    if number == 0:
        return None
    top = high if high > low else low + max(abs(low) * 1e-6, 1e-6)
    fine = np.zeros(FINE, np.int64)
    for values in _values(table, quantity):
        fine += np.histogram(values, FINE, (low, top))[0]
    edges = np.linspace(low, top, FINE + 1)
    cumulative = np.cumsum(fine)
    first, last = np.searchsorted(cumulative, [0.001 * number, 0.999 * number])
    wanted = bins or int(np.clip(round(2 * number ** (1 / 3)), 8, 60))
    group = max(1, -(-(int(last) - int(first) + 1) // wanted))
    begin = int(first) // group * group
    stop = min(FINE, begin + -(-(int(last) + 1 - begin) // group) * group)
    cuts = np.r_[np.arange(begin, stop, group), stop]
    counts = np.add.reduceat(fine[:stop], cuts[:-1])
    counts[0] += fine[:begin].sum()
    counts[-1] += fine[stop:].sum()
    median = _median(edges, cumulative, number)
    return Distribution(number, total / number, low, high, median, edges[cuts], counts, quantity.title, quantity.unit)


def density(table: Table, columns: dict[str, str], low: Sequence[float], high: Sequence[float]) -> NDArray[np.int64]:
    """Return the number of objects in square cells of the (y, x) plane between `low` and `high`, any one unit.

    The cells are chosen so that the fullest part of the plane holds a few objects a cell, at most 128 along a side.
    """
    rows = table.rows
    extent = [max(b - a, 1e-9) for a, b in zip(low, high, strict=True)]
    longest = int(np.clip(math.sqrt(max(rows, 1) / 2) * math.sqrt(max(extent) / min(extent)), 4, 128))
    shape = [max(1, round(longest * n / max(extent))) for n in extent]
    cells = np.zeros(shape, np.int64)
    bounds = [(a, a + n) for a, n in zip(low, extent, strict=True)]
    for batch in table.batches((columns["y"], columns["x"])):
        place = (batch[columns["y"]], batch[columns["x"]])
        cells += np.histogram2d(*place, bins=shape, range=bounds)[0].astype(np.int64)
    return cells


def quantiles(spread: Distribution, shares: Sequence[float]) -> list[float]:
    """Return the values below which the given shares of the objects lie, by linear interpolation in the histogram."""
    cumulative = np.r_[0, np.cumsum(spread.counts)] / max(spread.count, 1)
    found: list[float] = np.interp(shares, cumulative, spread.edges).tolist()
    return found


def local_path(url: str, base: Path) -> Path:
    """Return the file that the table address `url` names, relative ones taken from `base`; PlanError for other schemes."""
    text = url.removeprefix("file://")
    if "://" in text:
        raise PlanError(f"{url}: only tables in local files can be read for the report")
    return base / text


def _values(table: Table, quantity: Quantity) -> Iterator[Column]:
    """Yield the finite values of `quantity`; empty batches are left out."""
    for batch in table.batches(quantity.columns):
        values = quantity.compute(batch)
        values = values[np.isfinite(values)]
        if len(values):
            yield values


def _median(edges: NDArray[np.float64], cumulative: NDArray[np.int64], number: int) -> float:
    """Return the median by linear interpolation within its fine bin."""
    half = number / 2
    place = int(np.searchsorted(cumulative, half))
    before = int(cumulative[place - 1]) if place else 0
    inside = max(int(cumulative[place]) - before, 1)
    return float(edges[place] + (edges[place + 1] - edges[place]) * (half - before) / inside)


def _as_float(column: Any) -> Column:
    """Return an arrow column as float64, missing and non-numeric values as NaN."""
    import pyarrow as pa

    try:
        values: Column = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return np.full(len(column), np.nan)
    return values


def _header(path: Path) -> tuple[str, ...]:
    """Return the names of the columns of a CSV file."""
    import pyarrow.csv as csv

    with csv.open_csv(path) as reader:
        return tuple(reader.schema.names)


def _csv(path: Path, columns: Sequence[str]) -> Any:
    """Return a streaming reader of `columns` of a CSV file, as text.

    Types guessed from the first rows round ids above 2^63, and fail where whole numbers are followed by others.
    """
    import pyarrow as pa
    import pyarrow.csv as csv

    options = csv.ConvertOptions(
        include_columns=list(columns), column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=True
    )
    return csv.open_csv(path, convert_options=options)


def _value(text: str | None) -> Any:
    """Return what a cell of a CSV file says: a truth value, a whole number, a number, or the text itself."""
    if text is None or text in ("true", "false"):
        return None if text is None else text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text

"""Objects counted by zone, such as the regions of an atlas."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ndbatch.errors import PlanError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.steps.function.loading import beside
from ndbatch.steps.grouping import merged_by_key
from ndbatch.steps.measure.exact_sums import quotients
from ndbatch.steps.measure.object_columns import main_zones
from ndbatch.steps.measure.object_rows import ObjectRows, combined, rows_of_block
from ndbatch.steps.measure.value_counts import tally
from ndbatch.steps.payload import pack_rows, unpack_rows

if TYPE_CHECKING:
    import pyarrow as pa

MEASURED = "measured"
"""The column of `zone_rows` with packed rows of the zones, shaped as those of objects: a block has them in its first row."""


def zone_rows(rows: ObjectRows | None, zones: Array, image: Array | None, box: Box, axes: str) -> pa.RecordBatch:
    """Return, for every object of a block (`box`), how many of its voxels lie in which zone; label 0 has all voxels of the block.

    With an image the first row has in `MEASURED` what is known of the zones themselves, as packed rows.
    """
    import pyarrow as pa

    flat = np.ascontiguousarray(zones).reshape(-1)
    flat = flat.view(np.uint8) if flat.dtype.kind == "b" else flat
    every = {"zones": tally(np.zeros(flat.size, np.int64), flat, 1)}
    whole = ObjectRows(np.zeros(1, np.uint64 if rows is None else rows.label.dtype), {}, {}, every)
    if rows is not None:
        whole = combined([whole, ObjectRows(rows.label, {}, {}, {"zones": rows.lists["zones"]})])
    batch = whole.to_batch()
    if image is None:
        return batch
    found = rows_of_block(zones, image, box, axes)
    cells = [b"" if found is None else pack_rows(found.to_batch()), *[b""] * (batch.num_rows - 1)]
    return batch.append_column(MEASURED, pa.array(cells, pa.binary()))


def without_measured(rows: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of objects alone."""
    for batch in rows:
        yield batch.drop_columns([MEASURED]) if MEASURED in batch.schema.names else batch


def zone_means(rows: Iterable[pa.RecordBatch], scratch: Path) -> dict[int, float]:
    """Return the mean of the finite voxels of each zone, rounded once from exact sums; NaN where it has none."""
    cells = (cell for batch in rows for cell in batch[MEASURED].to_pylist())
    merged = merged_by_key(
        (unpack_rows(cell) for cell in cells if cell),
        "label",
        lambda table: combined([ObjectRows.of_table(table)]).to_batch(),
        scratch,
    )
    means: dict[int, float] = {}
    for found in map(ObjectRows.of_table, merged):
        values = quotients(found.sums["intensity"], found.columns.get("finite", found.columns["voxels"]))
        means |= zip(found.label.tolist(), values.tolist(), strict=True)
    return means


@dataclass(frozen=True)
class ZoneTable:
    """The table of zones: `zone`, `structure` (its name, where names are given), `count` of objects, `voxels`, with a voxel size
    `volume_mm3` and `density_per_mm3`, and with an image `intensity_mean`. Zone 0, outside all zones, is left out."""

    names: Mapping[int, str] | None
    voxel_size: tuple[float, ...] | None
    axes: str

    def counted(self, batches: Iterable[ObjectRows], means: Mapping[int, float] | None = None) -> pa.RecordBatch:
        """Return the table for merged rows of `zone_rows`, with the mean intensity of each zone where `means` are given."""
        import pyarrow as pa

        voxels: Counter[int] = Counter()
        objects: Counter[int] = Counter()
        for rows in batches:
            chosen = main_zones(rows)
            found, counts = np.unique(chosen[rows.label != 0], return_counts=True)
            objects.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
            for place in np.flatnonzero(rows.label == 0):
                part = slice(*rows.lists["zones"].offsets[place : place + 2])
                pairs = rows.lists["zones"]
                voxels.update(dict(zip(pairs.values[part].tolist(), pairs.counts[part].tolist(), strict=True)))
        zones = sorted(zone for zone in voxels if zone != 0)
        made = {"zone": pa.array(zones, pa.int64() if min(zones, default=0) < 0 else pa.uint64())}
        if self.names is not None:
            made["structure"] = pa.array([self.names.get(zone, "") for zone in zones], pa.string())
        made["count"] = pa.array([objects[zone] for zone in zones], pa.int64())
        made["voxels"] = pa.array([voxels[zone] for zone in zones], pa.int64())
        sizes = [s for axis, s in zip(self.axes, self.voxel_size or (), strict=False) if axis in "zyx"]
        if len(sizes) == 3:
            volume = np.array([voxels[zone] for zone in zones], float) * math.prod(sizes) * 1e-9
            made |= {"volume_mm3": pa.array(volume), "density_per_mm3": pa.array(made["count"].to_numpy() / volume)}
        if means is not None:
            made["intensity_mean"] = pa.array([means[zone] for zone in zones], pa.float64())
        return pa.RecordBatch.from_pydict(made)


def require_names(path: str | None) -> dict[int, str] | None:
    """Return the names of zones in a CSV file, by its path from the configuration's folder: number, name, with or without
    a heading. Raises PlanError."""
    if path is None:
        return None
    found = beside(str(Path(path).expanduser()))
    if found is None:
        raise PlanError(f"measure: zone_names: {path} does not exist; give the path from the configuration's folder")
    try:
        with found.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if len(row) >= 2]
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"measure: zone_names: {path} cannot be read: {error}") from None
    names = {int(row[0]): row[1].strip() for row in rows if row[0].strip().lstrip("-").isdigit()}
    if not names:
        raise PlanError(f"measure: zone_names: {path} has no row of a number and a name, such as 7,cortex")
    return names

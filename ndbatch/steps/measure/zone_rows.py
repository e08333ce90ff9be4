"""Objects counted by zone, such as the regions of an atlas."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ndbatch.errors import PlanError
from ndbatch.remotes.base import Array
from ndbatch.steps.measure.object_columns import main_zones
from ndbatch.steps.measure.object_rows import ObjectRows, combined
from ndbatch.steps.measure.value_counts import tally

if TYPE_CHECKING:
    import pyarrow as pa


def zone_rows(rows: ObjectRows | None, zones: Array) -> ObjectRows:
    """Return, for every object of a block, how many of its voxels lie in which zone; label 0 has all voxels of the block."""
    flat = np.ascontiguousarray(zones).reshape(-1)
    flat = flat.view(np.uint8) if flat.dtype.kind == "b" else flat
    every = {"zones": tally(np.zeros(flat.size, np.int64), flat, 1)}
    if rows is None:
        return ObjectRows(np.zeros(1, np.uint64), {}, {}, every)
    whole = ObjectRows(np.zeros(1, rows.label.dtype), {}, {}, every)
    return combined([whole, ObjectRows(rows.label, {}, {}, {"zones": rows.lists["zones"]})])


@dataclass(frozen=True)
class ZoneTable:
    """The table of zones: `zone`, `structure` (its name, where names are given), `count` of objects, `voxels`, and with a
    voxel size `volume_mm3` and `density_per_mm3`. Zone 0, outside all zones, is left out."""

    names: Mapping[int, str] | None
    voxel_size: tuple[float, ...] | None
    axes: str

    def counted(self, batches: Iterable[ObjectRows]) -> pa.RecordBatch:
        """Return the table for merged rows of `zone_rows`."""
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
        return pa.RecordBatch.from_pydict(made)


def require_names(path: str | None) -> dict[int, str] | None:
    """Return the names of zones in the CSV file `path`: number, name, with or without a heading. Raises PlanError."""
    if path is None:
        return None
    try:
        with Path(path).expanduser().open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if len(row) >= 2]
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"measure: zone_names: {path} cannot be read: {error}") from None
    names = {int(row[0]): row[1].strip() for row in rows if row[0].strip().lstrip("-").isdigit()}
    if not names:
        raise PlanError(f"measure: zone_names: {path} has no row of a number and a name, such as 7,cortex")
    return names

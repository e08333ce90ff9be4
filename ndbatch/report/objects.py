"""What a run found, from its tables: sizes, intensities, places and the first rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import MissingExtra, NdbatchError
from ndbatch.geometry import Box
from ndbatch.report import figures
from ndbatch.report.markup import Content, Markup, element, joined, table
from ndbatch.report.summary import open_table
from ndbatch.report.tables import (
    Distribution,
    Table,
    density,
    distribution,
    intensity_quantities,
    plain_column,
    position_columns,
    quantiles,
    size_quantity,
)
from ndbatch.report.words import label, value

ROWS = 12
DOTS = 400
"""Most objects drawn one by one on the map; more are shown as a density."""


@dataclass(frozen=True)
class Findings:
    """The section of one table, and the range of z (in voxels) in which its objects lie, where it tells."""

    section: Markup
    depths: tuple[float, float] | None = None


def describe(summary: Mapping[str, Any], document: Mapping[str, Any], directory: Path) -> list[Findings]:
    """Return a section for every table of the run; one that cannot be read says why."""
    found = []
    for name, output in summary["outputs"].items():
        if output["type"] != "table":
            continue
        heading = element("h2", label(name))
        try:
            rows = open_table(output["url"], directory)
            scale = document["outputs"].get(name, {}).get("scale")
            found.append(_describe(name, rows, _coarse(document, scale) if scale else document, scale))
        except NdbatchError as error:
            found.append(Findings(joined((heading, element("p", str(error), class_="problem")))))
    return found


def _coarse(document: Mapping[str, Any], scale: Sequence[int]) -> dict[str, Any]:
    """Return `document` with the region and the voxel size of coarser voxels, `scale` of the inputs' to one along each axis."""
    region, size = document["region"], document.get("voxel_size")
    box = Box(tuple(region["start"]), tuple(region["stop"])).coarsened(scale)
    return {
        **document,
        "region": {"start": list(box.start), "stop": list(box.stop)},
        "voxel_size": [s * n for s, n in zip(size, scale, strict=True)] if size else None,
    }


def _describe(name: str, rows: Table, document: Mapping[str, Any], scale: Sequence[int] | None) -> Findings:
    """Return the section of one table, whose positions are in voxels of `document`."""
    axes = str(document.get("axes", "zyx"))
    ndim = len([axis for axis in axes if axis in "zyx"])
    size = size_quantity(rows, ndim)
    wanted = ([size] if size else []) + intensity_quantities(rows)[:2]
    spreads = [spread for quantity in wanted if (spread := distribution(rows, quantity)) is not None]
    places = position_columns(rows, axes)
    charts = [_chart(figures.histogram, spread, f"{label(name)}: {spread.title}") for spread in spreads]
    if places and rows.rows:
        charts.append(_chart(_map, rows, places, document, f"{label(name)}: places"))
    section = joined(
        (
            element("h2", label(name)),
            element("p", _sentence(label(name), rows, spreads)),
            element("div", *charts, class_="charts") if charts else None,
            _preview(rows),
        )
    )
    depths, factor = _depths(rows, places), scale[axes.index("z")] if scale and "z" in axes else 1
    return Findings(section, depths and (depths[0] * factor, depths[1] * factor))


def _depths(rows: Table, places: dict[str, str]) -> tuple[float, float] | None:
    """Return the z between which nearly all centroids lie."""
    spread = distribution(rows, plain_column(places["z"], "z")) if "z" in places else None
    if spread is None:
        return None
    low, high = quantiles(spread, (0.02, 0.98))
    return low, high


def _sentence(name: str, rows: Table, spreads: list[Distribution]) -> str:
    parts = [f"{rows.rows:,} {name if name.endswith('s') else 'rows'}"]
    for spread in spreads:
        unit = f" {spread.unit}" if spread.unit else ""
        parts.append(
            f"{spread.title} {value(spread.median)}{unit} in the median "
            f"({value(spread.low)} to {value(spread.high)}, mean {value(spread.mean)})"
        )
    return "; ".join(parts) + "."


def _chart(draw: Callable[..., str], *of: Any) -> Markup:
    """Return the chart, or the command that would make it possible."""
    try:
        return element("div", Markup(draw(*of)))
    except MissingExtra as error:
        return element("p", str(error), class_="soft")


def _map(rows: Table, places: dict[str, str], document: Mapping[str, Any], name: str) -> str:
    """Return where the objects are in the (y, x) plane, in micrometres where the voxel size is known."""
    axes = str(document.get("axes", "zyx"))
    size = document.get("voxel_size") or [1.0] * len(axes)
    scale = {axis: float(size[axes.index(axis)]) for axis in places}
    low, high = ([float(document["region"][end][axes.index(axis)]) for axis in "yx"] for end in ("start", "stop"))
    first, last = ([v * scale[axis] for v, axis in zip(end, "yx", strict=True)] for end in (low, high))
    unit = "µm" if document.get("voxel_size") else "voxels"
    if rows.rows > DOTS:
        return figures.density_map(density(rows, places, low, high), first, last, unit, name)
    batches = list(rows.batches(tuple(places.values())))
    at = {axis: np.concatenate([batch[column] for batch in batches]) for axis, column in places.items()}
    return figures.places_map({axis: values * scale[axis] for axis, values in at.items()}, first, last, unit, name)


def _preview(rows: Table) -> Markup:
    """Return the first rows, numbers short and set to the right."""
    if not rows.rows:
        return Markup()
    first = rows.head(ROWS)
    numeric = [i for i, part in enumerate(first[0]) if isinstance(part, (int, float)) and not isinstance(part, bool)]
    body: list[list[Content]] = [[_cell(part) for part in row] for row in first]
    words = "All rows" if rows.rows <= ROWS else f"The first {ROWS} of {rows.rows:,} rows"
    return joined((element("h3", words), table([label(c) for c in rows.columns], body, numeric)))


def _cell(part: Any) -> str:
    return "" if part is None else str(part) if isinstance(part, int) and not isinstance(part, bool) else value(part)

"""The verbs about tables of points: points convert, points density."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ndbatch.cli.arguments import AsJson, echo_json
from ndbatch.errors import PlanError

if TYPE_CHECKING:
    import pyarrow as pa

    from ndbatch.remotes.base import Array
    from ndbatch.steps.base import ArrayInfo
    from ndbatch.tables.counting import Counts

points = typer.Typer(name="points", no_args_is_help=True, rich_markup_mode=None, help="Tables of points.")

Source = Annotated[Path, typer.Argument(metavar="SRC", help="A .parquet, .csv, .xml, .yml or napari .csv file.")]


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this module to `app`."""
    points.command("convert", short_help="Write points in another format.")(convert)
    points.command("density", short_help="Count points in the voxels of a grid.")(density)
    app.add_typer(points)


def convert(
    source: Source,
    target: Annotated[Path, typer.Argument(metavar="DST", help="The file to write; .napari.csv for napari.")],
    as_json: AsJson = False,
) -> None:
    """Write points in the format that the ending of DST tells: CellCounter XML, cellfinder YAML, CSV, Parquet, napari."""
    from ndbatch.tables import read_points, write_points

    table = read_points(source)
    write_points(target, table)
    if as_json:
        echo_json({"points": table.num_rows, "path": str(target)})
    else:
        typer.echo(f"{table.num_rows} points in {target}")


def density(
    source: Source,
    voxel_size: Annotated[
        str, typer.Option(metavar="50um", help="Size of a voxel of the map; a plain number is voxels of the points.")
    ],
    output: Annotated[str, typer.Option(metavar="DST", help="The volume to write.")],
    smooth: Annotated[
        str | None, typer.Option(metavar="100um", help="Standard deviation of a Gaussian; not smoothed if not given.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(metavar="VOLUME", help="The volume that the points were found in: extent, voxel size.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count points in the voxels of a grid, and smooth the counts; their sum is the number of points."""
    import numpy as np

    from ndbatch.geometry import Grid
    from ndbatch.remotes.api import create
    from ndbatch.steps.density import coarse_places, density_factors, density_sigma
    from ndbatch.tables import read_points
    from ndbatch.tables.counting import Counts

    table = read_points(source)
    info, centres = _placed(table, str(source), like, voxel_size)
    factors = density_factors(voxel_size, info)
    sigma = density_sigma(smooth, info, factors)
    domain = info.domain.coarsened(factors)
    counts = Counts.of(coarse_places(centres, factors), domain, sigma)
    size = None if info.voxel_size is None else [s * f for s, f in zip(info.voxel_size, factors, strict=True)]
    volume = create(
        output, shape=domain.shape, dtype="float32", axes=info.axes, voxel_size=size, offset=domain.start, kind="image"
    )
    for block in Grid.over(domain, volume.spec.write_unit):
        volume.write(block.core, counts.within(block.core).astype(np.float32))
    volume.close()
    _told(counts, table.num_rows, output, as_json)


def _told(counts: Counts, points: int, output: str, as_json: bool) -> None:
    """Say how many points were counted."""
    beyond = points - counts.total
    if as_json:
        echo_json({"points": counts.total, "beyond": beyond, "url": output, "shape": list(counts.domain.shape)})
        return
    extent = " x ".join(map(str, counts.domain.shape))
    typer.echo(f"{counts.total} points in {output}, {extent} voxels")
    if beyond:
        typer.echo(f"{beyond} points lie beyond the volume and were left out", err=True)


def _placed(table: pa.Table, source: str, like: str | None, voxel_size: str) -> tuple[ArrayInfo, Array]:
    """Return the grid the points lie in, and their places in its voxels.

    Without a volume the grid begins at 0 and ends with the last point; points in micrometres lie in voxels of a hundredth
    of the map's.
    """
    import numpy as np

    from ndbatch.remotes.api import open as open_volume
    from ndbatch.steps.base import ArrayInfo
    from ndbatch.tables import coordinates

    physical = {"y_um", "x_um"} <= set(table.column_names)
    if like is None:
        return _unbounded(table, source, voxel_size, physical)
    volume = open_volume(like)
    spec = volume.spec
    if set(spec.axes) - set("zyx"):
        raise PlanError(f"--like {like} has the axes {', '.join(spec.axes)}; take a place, such as {like}?t=0&c=0")
    columns = ["zyx".index(axis) for axis in spec.axes]
    info = ArrayInfo(spec.domain, spec.dtype, spec.axes, spec.voxel_size)
    if "y" in table.column_names:
        return info, coordinates(table, "", source)[:, columns]
    if spec.voxel_size is None:
        raise PlanError(
            f"--like {like} has no voxel size, and {source} has no columns z, y, x in voxels; add one of them"
        )
    return info, coordinates(table, "_um", source)[:, columns] / np.array(spec.voxel_size)


def _unbounded(table: pa.Table, source: str, voxel_size: str, physical: bool) -> tuple[ArrayInfo, Array]:
    """Return the grid from 0 to the last point. PlanError where voxels and lengths do not go together."""
    import numpy as np

    from ndbatch.geometry import Box
    from ndbatch.steps.base import ArrayInfo
    from ndbatch.tables import coordinates
    from ndbatch.units import has_unit, micrometres

    scale = None
    if has_unit(voxel_size):
        if not physical:
            raise PlanError(
                f"{source} tells places in voxels, and nothing tells their size: add --like VOLUME, or give --voxel-size as a "
                "number of voxels"
            )
        step = micrometres(voxel_size) / 100
        if not step > 0:
            raise PlanError(f"--voxel-size: {voxel_size} is not above 0")
        scale = (step,) * 3
        places = coordinates(table, "_um", source) / step
    elif "y" in table.column_names:
        places = coordinates(table, "", source)
    else:
        raise PlanError(f"{source} tells places in micrometres: give --voxel-size with a unit, such as 50um")
    low = np.floor(places.min(axis=0, initial=0) + 0.5).astype(int)
    high = np.floor(places.max(axis=0, initial=0) + 0.5).astype(int) + 1
    # A plane of points is a grid of one voxel along z; other axes are never so short that nothing is left to count in.
    high[1:] = np.maximum(high[1:], 2)
    return ArrayInfo(Box(tuple(low.tolist()), tuple(high.tolist())), np.dtype(np.float32), "zyx", scale), places

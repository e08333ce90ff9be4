"""What `ndbatch try` shows: numbers of one place, and a picture of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndbatch.remotes.base import Kind
from ndbatch.report.words import count, duration, facts

if TYPE_CHECKING:
    from ndbatch.config.model import Config
    from ndbatch.plan.model import Plan
    from ndbatch.trial import TrialResult

COLUMNS = 6
"""Columns of a table that are told."""


def shown(result: TrialResult, config: Config, picture: Path | None) -> list[str]:
    """Return the lines to print about `result`, after its picture was written (to a temporary file if `picture` is None)."""
    from ndbatch.plan.make import make_plan

    plan = make_plan(config, resume=False)
    document = plan.document()
    entries = {**document["inputs"], **document["outputs"]}
    lines = [
        f"{config.name}: tried {result.box.describe(result.axes)} in {duration(result.seconds)}; nothing was written"
    ]
    lines += [f"  {name}: {value}" for name, value in facts(result.facts)]
    for name, (array, _) in result.arrays.items():
        lines.append(f"  {name}: {_numbers(array, entries[name]['kind'])}")
    for name, table in result.tables.items():
        lines += _table(name, table)
    if path := _draw(result, plan, entries, picture):
        lines.append(f"  picture: {path}")
    return lines


def _numbers(array: Any, kind: str) -> str:
    """Return what there is to say of voxels: values, or the number of objects."""
    if kind == Kind.LABELS:
        import numpy as np

        ids = np.unique(array)
        share = float((array != 0).mean())
        return f"{count(int((ids != 0).sum()), 'object')}, {share:.1%} of the voxels ({array.dtype})"
    return f"{_exact(array.min())} to {_exact(array.max())}, mean {array.mean():.4g} ({array.dtype})"


def _exact(number: Any) -> str:
    """Return whole numbers in full, for ids differ in their last digits; others in six digits."""
    return str(int(number)) if isinstance(number, Integral) else f"{number:g}"


def _table(name: str, table: Any) -> Iterator[str]:
    """Yield the size of a table and the range of its first columns of numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    yield f"  {name}: {count(table.num_rows, 'row')}"
    numbers = [f.name for f in table.schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
    for column in numbers[:COLUMNS] if table.num_rows else []:
        least, most = (pc.min_max(table[column]).as_py()[key] for key in ("min", "max"))
        yield f"    {column}: {_exact(least)} to {_exact(most)}"


def _draw(result: TrialResult, plan: Plan, entries: Mapping[str, Any], picture: Path | None) -> Path | None:
    """Write the picture: the first image with the last labels outlined, or the last volume; None where there is no volume.

    Labels are outlined in an image of their own voxels alone.
    """
    from ndbatch.report.pictures import look, write_png
    from ndbatch.report.planes import Held

    held = {
        name: Held.of(array, box, result.axes, plan.infos[name].voxel_size, Kind(entries[name]["kind"]))
        for name, (array, box) in result.arrays.items()
    }
    made = [held[name] for name in plan.config.outputs if name in held]
    labels = [volume for volume in made if volume.spec.kind == Kind.LABELS]
    shown = [*plan.config.inputs, *(name for name in plan.config.outputs if name in held)]
    images = [held[name] for name in shown if held[name].spec.kind != Kind.LABELS]
    if labels:
        images = [image for image in images if image.spec.shape == labels[-1].spec.shape]
    candidates = images[:1] if labels or not made else made[-1:]
    if not candidates and not made:
        return None
    ground = (candidates or labels[-1:] or made[-1:])[0]
    path = picture or Path(tempfile.mkdtemp(prefix="ndbatch-try-")) / f"{plan.config.name}.png"
    outlines = labels[-1] if labels and ground is not labels[-1] else None
    return write_png(path, look(ground, outlines).rgb)

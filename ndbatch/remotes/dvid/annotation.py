"""Points with what they mean, such as synapses: the elements of an annotation instance, as JSON or as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ndbatch.geometry import Box
from ndbatch.remotes.dvid.service import Place, joined

KINDS = ("Unknown", "PostSyn", "PreSyn", "Gap", "Note")
BATCH = 10_000
"""Elements of one request."""
Element = dict[str, Any]
"""`Pos` [x, y, z] in voxels, `Kind` (one of `KINDS`), `Tags`, `Prop` (strings by name), `Rels` (`Rel` and `To` of each)."""


def elements(place: Place, box: Box | None = None) -> list[Element]:
    """Return the elements in a box (z, y, x), or all of them, in the order of their points."""
    if box is not None:
        found = list(place.get(f"/elements/{joined(box.shape)}/{joined(box.start)}").json() or [])
    else:
        found = [one for block in (place.get("/all-elements").json() or {}).values() for one in block or []]
    return sorted(found, key=lambda one: one["Pos"][::-1])


def add(place: Place, points: Iterable[Element]) -> None:
    """Add elements, or put them in place of those at the same points. Denied at a locked version."""
    place.require_open()
    rows = list(points)
    for start in range(0, len(rows), BATCH):
        place.post("/elements", json.dumps(rows[start : start + BATCH]).encode())


def remove(place: Place, point: Iterable[int]) -> None:
    """Remove the element at a point (z, y, x), and what others say of it."""
    place.require_open()
    place.request("DELETE", place.data(f"/element/{joined(tuple(point))}"))


def of_body(place: Place, label: int) -> list[Element]:
    """Return the elements that lie in a body of the labelmap that the instance is synced to."""
    found: list[Element] = place.get(f"/label/{int(label)}").json() or []
    return found


def table(points: Iterable[Element]) -> Any:
    """Return elements as a pyarrow table, one row each.

    Columns `z`, `y`, `x` (int32, voxels), `kind`, `tags` (list of strings), `properties` (JSON) and `partners`, a list of
    `relation`, `z`, `y`, `x`.
    """
    import pyarrow as pa

    rows = list(points)
    partner = pa.struct([("relation", pa.string()), *((axis, pa.int32()) for axis in "zyx")])
    columns = {
        axis: pa.array([one["Pos"][place] for one in rows], pa.int32())
        for axis, place in zip("zyx", (2, 1, 0), strict=True)
    }
    partners = [[_partner(relation) for relation in one.get("Rels") or []] for one in rows]
    return pa.table(
        {
            **columns,
            "kind": pa.array([one.get("Kind", "Unknown") for one in rows], pa.string()),
            "tags": pa.array([one.get("Tags") or [] for one in rows], pa.list_(pa.string())),
            "properties": pa.array([json.dumps(one.get("Prop") or {}, sort_keys=True) for one in rows], pa.string()),
            "partners": pa.array(partners, pa.list_(partner)),
        }
    )


def _partner(relation: Mapping[str, Any]) -> dict[str, Any]:
    x, y, z = relation["To"]
    return {"relation": relation["Rel"], "z": z, "y": y, "x": x}


def elements_of(rows: Any) -> list[Element]:
    """Return the elements that a table, as `table` gives it, holds."""
    return [
        {
            "Pos": [row["x"], row["y"], row["z"]],
            "Kind": row["kind"],
            "Tags": row["tags"],
            "Prop": json.loads(row["properties"]),
            "Rels": [{"Rel": one["relation"], "To": [one["x"], one["y"], one["z"]]} for one in row["partners"]],
        }
        for row in rows.to_pylist()
    ]

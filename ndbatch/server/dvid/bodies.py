"""Bodies of a labelmap: how large they are, where, of which supervoxels; merged, cleaved and renumbered."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from sqlite3 import Connection

import numpy as np
from starlette.responses import Response

from ndbatch.errors import PlanError
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.base import Array
from ndbatch.server.calls import as_json, plain
from ndbatch.server.dvid import label_index as index
from ndbatch.server.dvid import labels
from ndbatch.server.dvid.asking import Absent, Ask, Table, ids, octets, point, whole
from ndbatch.server.dvid.images import storage
from ndbatch.server.dvid.label_index import LabelIndex


@contextmanager
def _reading(ask: Ask) -> Iterator[Connection]:
    with LabelIndex(storage(ask), ask.uuid).reading() as connection:
        yield connection


@contextmanager
def _changing(ask: Ask) -> Iterator[Connection]:
    store = storage(ask)
    with store.lock(alone=True), LabelIndex(store, ask.uuid).changing() as connection:
        yield connection
    ask.repo.changed()


def _supervoxels(ask: Ask, connection: Connection, label: int) -> list[int]:
    """Return the supervoxels that a label stands for. Absent where there are none; 0 is no label."""
    found = [label] if ask.flag("supervoxels") else index.supervoxels_of(connection, label)
    if not label or not any(index.sizes(connection, found)):
        raise Absent(f"label {label} is not there")
    return found


def _label(ask: Ask) -> int:
    return whole(ask.part(0, "a label"), "the label")


def get_size(ask: Ask) -> Response:
    """GET size of one label."""
    with _reading(ask) as connection:
        return as_json({"voxels": sum(index.sizes(connection, _supervoxels(ask, connection, _label(ask))))})


def get_sizes(ask: Ask) -> Response:
    """GET sizes of the labels in the body, 0 for those that are not there."""
    wanted = ids(ask.call.json())
    with _reading(ask) as connection:
        parts = [[one] if ask.flag("supervoxels") else index.supervoxels_of(connection, one) for one in wanted]
        return as_json([sum(index.sizes(connection, part)) for part in parts])


def get_mapping(ask: Ask) -> Response:
    """GET mapping: the body of each supervoxel in the body; 0 for one that is not there."""
    wanted = ids(ask.call.json())
    with _reading(ask) as connection:
        found = index.body_of(connection, wanted)
        if not ask.flag("nolookup"):
            there = dict(zip(wanted, index.sizes(connection, wanted), strict=True))
            found = {sv: body if there[sv] else 0 for sv, body in found.items()}
        return as_json([found[sv] for sv in wanted])


def get_mappings(ask: Ask) -> Response:
    """GET mappings: lines of supervoxel and body, or pairs of uint64."""
    with _reading(ask) as connection:
        pairs = index.mapping(connection)
    if ask.call.query.get("format") == "binary":
        return octets(np.array(pairs, "<u8").tobytes())
    return plain("".join(f"{sv} {body}\n" for sv, body in pairs))


def get_supervoxels(ask: Ask) -> Response:
    """GET supervoxels of a body."""
    with _reading(ask) as connection:
        return as_json(_supervoxels(ask, connection, _label(ask)))


def get_supervoxel_sizes(ask: Ask) -> Response:
    """GET supervoxel-sizes of a body."""
    with _reading(ask) as connection:
        found = _supervoxels(ask, connection, _label(ask))
        return as_json({"supervoxels": found, "sizes": index.sizes(connection, found)})


def get_sparsevol_size(ask: Ask) -> Response:
    """GET sparsevol-size: voxels, blocks, and the box of those blocks."""
    with _reading(ask) as connection:
        found = _supervoxels(ask, connection, _label(ask))
        places = np.array(list(index.blocks(connection, found)))
        voxels = sum(index.sizes(connection, found))
    size = np.array(ask.instance.block)
    low, high = places.min(axis=0) * size, (places.max(axis=0) + 1) * size - 1
    answer = {
        "voxels": voxels,
        "numblocks": len(places),
        "minvoxel": low[::-1].tolist(),
        "maxvoxel": high[::-1].tolist(),
    }
    return as_json(answer)


def runs(mask: Array, start: Shape) -> Array:
    """Return the runs along x of the voxels that are true: int32 rows of x, y, z and length. `start` is z, y, x."""
    padded = np.zeros((*mask.shape[:2], mask.shape[2] + 2), np.int8)
    padded[:, :, 1:-1] = mask
    change = np.diff(padded, axis=2)
    z, y, first = np.nonzero(change == 1)
    length = np.nonzero(change == -1)[2] - first
    return np.stack([first + start[2], y + start[1], z + start[0], length], axis=1).astype("<i4")


def _spans(ask: Ask, label: int) -> Array:
    """Return the runs of a label at the scale asked for, within the bounds asked for."""
    scale, block = labels.scale_of(ask), ask.instance.block
    with _reading(ask) as connection:
        supervoxels = _supervoxels(ask, connection, label)
        places = sorted({tuple(n >> scale for n in place) for place in index.blocks(connection, supervoxels)})
    low = [int(ask.call.query.get(f"min{axis}", -(2**31))) for axis in "zyx"]
    high = [int(ask.call.query.get(f"max{axis}", 2**31 - 2)) + 1 for axis in "zyx"]
    store, found = storage(ask), []
    for place in places:
        box = Box.of_shape(block, [n * size for n, size in zip(place, block, strict=True)])
        box = box.intersect(Box(tuple(low), tuple(high)))
        if not box.empty:
            data = store.read(ask.uuid, box, scale)
            found.append(runs(np.isin(data, np.array(supervoxels, np.uint64)), box.start))
    return np.concatenate(found) if found else np.zeros((0, 4), "<i4")


def rles(spans: Array) -> bytes:
    """Return runs as DVID sends them: a head, no voxel count, the number of runs, and the runs."""
    return struct.pack("<BBBBII", 0, 3, 0, 0, 0, len(spans)) + spans.astype("<i4").tobytes()


def get_sparsevol(ask: Ask) -> Response:
    """GET sparsevol: the runs of a label."""
    return _sparse(ask, _label(ask))


def get_sparsevol_by_point(ask: Ask) -> Response:
    """GET sparsevol-by-point: the runs of the label at a point."""
    return _sparse(ask, labels.at_points(ask, [point(ask.part(0, "a point"))])[0])


def _sparse(ask: Ask, label: int) -> Response:
    form = ask.call.query.get("format", "rles")
    if form not in ("rles", "srles"):
        raise PlanError(f"format {form!r} is not one of rles, srles")
    try:
        spans = _spans(ask, label)
    except ValueError:
        raise PlanError("bounds must be whole numbers") from None
    return octets(rles(spans) if form == "rles" else spans.tobytes())


def head_sparsevol(ask: Ask) -> Response:
    """HEAD sparsevol: 200 where the label is there, 204 where it is not."""
    with _reading(ask) as connection:
        try:
            _supervoxels(ask, connection, _label(ask))
        except Absent:
            return Response(status_code=204)
    return Response()


def get_sparsevol_coarse(ask: Ask) -> Response:
    """GET sparsevol-coarse: the runs of the blocks that a label lies in."""
    with _reading(ask) as connection:
        places = np.array(list(index.blocks(connection, _supervoxels(ask, connection, _label(ask)))))
    low = places.min(axis=0)
    mask = np.zeros(places.max(axis=0) - low + 1, bool)
    mask[tuple((places - low).T)] = True
    return octets(rles(runs(mask, tuple(map(int, low)))))


def get_maxlabel(ask: Ask) -> Response:
    """GET maxlabel: the largest supervoxel. Refused while there is none."""
    with _reading(ask) as connection:
        found = max(index.largest(connection), *(max(pair) for pair in index.mapping(connection)), 0)
    if not found:
        raise PlanError(f"No maximum label found for {ask.instance.name}: nothing was written")
    return as_json({"maxlabel": found})


def _counter(ask: Ask) -> str:
    return f"{ask.repo.scope}:{ask.instance.name}:label"


def _fresh(ask: Ask, connection: Connection, count: int) -> int:
    return ask.repo.catalogue.reserve(_counter(ask), count, index.largest(connection) + 1)


def get_nextlabel(ask: Ask) -> Response:
    """GET nextlabel: the id that would be given next."""
    with _reading(ask) as connection:
        return as_json({"nextlabel": _fresh(ask, connection, 0)})


def post_nextlabel(ask: Ask) -> Response:
    """POST nextlabel: so many ids that nobody else gets."""
    count = whole(ask.part(0, "a number of ids"), "the number of ids")
    if not 1 <= count <= 2**40:
        raise PlanError(f"{count} ids are not from 1 to {2**40}")
    with _reading(ask) as connection:
        first = _fresh(ask, connection, count)
    return as_json({"start": first, "end": first + count - 1})


def post_merge(ask: Ask) -> Response:
    """POST merge: the bodies that follow the first become part of it."""
    wanted = ids(ask.call.json())
    if len(wanted) < 2 or len(set(wanted)) != len(wanted):
        raise PlanError("merge needs the label to keep, and labels to merge into it")
    with _changing(ask) as connection:
        parts = [index.supervoxels_of(connection, label) for label in wanted]
        for label, found in zip(wanted, parts, strict=True):
            if not found or not label:
                raise PlanError(f"label {label} is not there, so nothing was merged")
        index.set_mapping(connection, {sv: wanted[0] for found in parts[1:] for sv in found})
    return as_json({"MutationID": ask.repo.mutation()})


def post_cleave(ask: Ask) -> Response:
    """POST cleave: supervoxels of a body become a body of their own."""
    label, chosen = _label(ask), ids(ask.call.json())
    with _changing(ask) as connection:
        found = index.supervoxels_of(connection, label)
        if not chosen or not set(chosen) < set(found):
            raise PlanError(f"cleave takes some of the supervoxels of {label}, and not all of them")
        fresh = _fresh(ask, connection, 1)
        index.set_mapping(connection, dict.fromkeys(chosen, fresh))
    return as_json({"CleavedLabel": fresh, "MutationID": ask.repo.mutation()})


def post_renumber(ask: Ask) -> Response:
    """POST renumber: pairs of a new and an old label."""
    wanted = ids(ask.call.json())
    if not wanted or len(wanted) % 2:
        raise PlanError("renumber takes pairs of a new and an old label")
    with _changing(ask) as connection:
        for new, old in zip(wanted[::2], wanted[1::2], strict=True):
            found = index.supervoxels_of(connection, old)
            if not found or not new or index.supervoxels_of(connection, new):
                raise PlanError(f"label {old} cannot become {new}: it is not there, or {new} is")
            index.set_mapping(connection, dict.fromkeys(found, new))
    return as_json({"MutationID": ask.repo.mutation()})


def get_listlabels(ask: Ask) -> Response:
    """GET listlabels: bodies in ascending order, with `sizes` each with its voxels; uint64."""
    start, number = ask.number("start"), min(ask.number("number", 10_000_000), 10_000_000)
    with _reading(ask) as connection:
        rows = connection.execute(
            "SELECT COALESCE(m.body, c.sv), SUM(c.n) FROM counts c LEFT JOIN mapping m ON m.sv = c.sv GROUP BY 1"
        ).fetchall()
    found = sorted((index.unsigned(body), n) for body, n in rows)
    found = [pair for pair in found if pair[0] >= start][:number]
    return octets(np.array([pair if ask.flag("sizes") else pair[:1] for pair in found], "<u8").tobytes())


TABLE: Table = {
    ("GET", "size"): get_size,
    ("GET", "sizes"): get_sizes,
    ("GET", "mapping"): get_mapping,
    ("GET", "mappings"): get_mappings,
    ("GET", "supervoxels"): get_supervoxels,
    ("GET", "supervoxel-sizes"): get_supervoxel_sizes,
    ("GET", "sparsevol-size"): get_sparsevol_size,
    ("GET", "sparsevol"): get_sparsevol,
    ("GET", "sparsevol-by-point"): get_sparsevol_by_point,
    ("HEAD", "sparsevol"): head_sparsevol,
    ("GET", "sparsevol-coarse"): get_sparsevol_coarse,
    ("GET", "maxlabel"): get_maxlabel,
    ("GET", "nextlabel"): get_nextlabel,
    ("POST", "nextlabel"): post_nextlabel,
    ("POST", "merge"): post_merge,
    ("POST", "cleave"): post_cleave,
    ("POST", "renumber"): post_renumber,
    ("GET", "listlabels"): get_listlabels,
}

"""Label indices and mappings as clients that ingest in bulk give them, and ask for them."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from ndbatch.errors import Corrupt, PlanError
from ndbatch.remotes.dvid.indices import (
    Counts,
    block_key,
    decode_index,
    decode_indices,
    decode_mappings,
    encode_index,
    encode_indices,
)
from ndbatch.server.calls import plain
from ndbatch.server.dvid import label_index as index
from ndbatch.server.dvid.asking import Absent, Ask, Table, ids, octets, whole
from ndbatch.server.dvid.images import storage
from ndbatch.server.dvid.label_index import LabelIndex, signed

MOST = 50_000
"""Labels of one request."""


def get_index(ask: Ask) -> Response:
    """GET index of a body."""
    label = whole(ask.part(0, "a label"), "the label")
    found = _of(ask, [label])[label]
    if not found:
        raise Absent(f"label {label} has no index")
    return octets(encode_index(label, found))


def get_indices(ask: Ask) -> Response:
    """GET indices of the bodies in the body; those that are not there have no blocks."""
    labels = ids(ask.call.json())
    if len(labels) > MOST:
        raise PlanError(f"{len(labels)} labels are more than {MOST}")
    return octets(encode_indices(_of(ask, labels)))


def _of(ask: Ask, labels: list[int]) -> dict[int, Counts]:
    with LabelIndex(storage(ask), ask.uuid).reading() as connection:
        return {label: index.blocks(connection, index.supervoxels_of(connection, label)) for label in labels}


def post_index(ask: Ask) -> Response:
    """POST index: in place of that of the body."""
    try:
        label, blocks = decode_index(ask.call.body)
    except Corrupt as error:
        raise PlanError(error.message) from None
    if label != whole(ask.part(0, "a label"), "the label"):
        raise PlanError(f"the index is of label {label}, not of {ask.parts[0]}")
    return _set(ask, {label: blocks})


def post_indices(ask: Ask) -> Response:
    """POST indices: each in place of that of its body."""
    try:
        return _set(ask, decode_indices(ask.call.body))
    except Corrupt as error:
        raise PlanError(error.message) from None


def _set(ask: Ask, indices: Mapping[int, Counts]) -> Response:
    store = storage(ask)
    with store.lock(alone=True), LabelIndex(store, ask.uuid).changing() as connection:
        for label, blocks in indices.items():
            rows = [(signed(sv), block_key(place), n) for place, counts in blocks.items() for sv, n in counts.items()]
            gone = {label, *index.supervoxels_of(connection, label), *(index.unsigned(row[0]) for row in rows)}
            connection.executemany("DELETE FROM counts WHERE sv = ?", [(signed(sv),) for sv in gone])
            connection.executemany("INSERT INTO counts VALUES (?, ?, ?)", rows)
            index.set_mapping(connection, {index.unsigned(row[0]): label for row in rows})
    ask.repo.changed()
    return plain("")


def post_mappings(ask: Ask) -> Response:
    """POST mappings: supervoxels belong to bodies."""
    try:
        pairs = decode_mappings(ask.call.body)
    except Corrupt as error:
        raise PlanError(error.message) from None
    store = storage(ask)
    with store.lock(alone=True), LabelIndex(store, ask.uuid).changing() as connection:
        index.set_mapping(connection, pairs)
    ask.repo.changed()
    return plain("")


TABLE: Table = {
    ("GET", "index"): get_index,
    ("GET", "indices"): get_indices,
    ("POST", "index"): post_index,
    ("POST", "indices"): post_indices,
    ("POST", "mappings"): post_mappings,
}

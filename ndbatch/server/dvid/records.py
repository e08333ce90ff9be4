"""Neuronjson, one JSON object for each body; and tarsupervoxels, one file for each supervoxel."""

from __future__ import annotations

import io
import json
import re
import tarfile
from typing import Any

from starlette.responses import Response

from ndbatch.errors import PlanError
from ndbatch.server.calls import as_json, plain
from ndbatch.server.dvid import label_index
from ndbatch.server.dvid.asking import Absent, Ask, Table, ids, octets, whole
from ndbatch.server.dvid.documents import Versioned
from ndbatch.server.dvid.images import storage
from ndbatch.server.dvid.instance import instance
from ndbatch.server.dvid.label_index import LabelIndex
from ndbatch.server.dvid.repository import now

STAMPS = ("_user", "_time")
PATTERN = 200
"""Characters of a regular expression."""


def _shown(ask: Ask, record: dict[str, Any]) -> dict[str, Any]:
    """Return the fields asked for: without stamps, unless `show` says so."""
    show, fields = ask.call.query.get("show", ""), [f for f in ask.call.query.get("fields", "").split(",") if f]
    hidden = [stamp for stamp in STAMPS if show not in ("all", stamp[1:])]
    kept = {name: value for name, value in record.items() if not name.endswith(tuple(hidden) or "\0")}
    return {n: v for n, v in kept.items() if not fields or n == "bodyid" or n in fields}


def _records(ask: Ask) -> list[dict[str, Any]]:
    kept = Versioned(ask)
    found = [json.loads(kept.get(key) or b"{}") for key in kept.keys()]  # noqa: SIM118 - no mapping
    return sorted(found, key=lambda record: int(record["bodyid"]))


def _key(ask: Ask) -> str:
    return str(whole(ask.part(0, "a body"), "the body id"))


def get_all(ask: Ask) -> Response:
    """GET all objects."""
    return as_json([_shown(ask, record) for record in _records(ask)])


def get_keys(ask: Ask) -> Response:
    """GET keys: the bodies, as strings."""
    return as_json([str(record["bodyid"]) for record in _records(ask)])


def get_fields(ask: Ask) -> Response:
    """GET fields: the names that any object has."""
    return as_json(sorted({name for record in _records(ask) for name in _shown(ask, record)}))


def get_record(ask: Ask) -> Response:
    """GET key: the object of one body."""
    found = Versioned(ask).get(_key(ask))
    if found is None:
        raise Absent(f"body {_key(ask)} has no annotation")
    return as_json(_shown(ask, json.loads(found)))


def post_record(ask: Ask) -> Response:
    """POST key: fields are merged into the object and stamped with who and when; null removes one."""
    user, key, told = ask.call.query.get("u", ""), _key(ask), ask.json()
    if not user:
        raise PlanError("POST of a key needs the user, u=NAME")
    with ask.repo.catalogue.transaction():
        before = json.loads(Versioned(ask).get(key) or b"{}")
        after = {} if ask.flag("replace") else dict(before)
        fixed = {name for name in ask.call.query.get("conditional", "").split(",") if name in before}
        for name, value in told.items():
            if name == "bodyid" or name.endswith(STAMPS) or name in fixed:
                continue
            same = name in before and before[name] == value
            stamps = before if same else {f"{name}_user": user, f"{name}_time": now()}
            after |= {name: value, **{f"{name}{s}": stamps[f"{name}{s}"] for s in STAMPS if f"{name}{s}" in stamps}}
            if value is None:
                after = {n: v for n, v in after.items() if n not in (name, *(f"{name}{s}" for s in STAMPS))}
        Versioned(ask).set(key, json.dumps({**after, "bodyid": int(key)}).encode())
    return plain("")


def delete_record(ask: Ask) -> Response:
    """DELETE key."""
    Versioned(ask).set(_key(ask), None)
    return plain("")


def query(ask: Ask) -> Response:
    """GET or POST query: objects whose fields are all as asked; of a list, any."""
    asked = ask.json(object)
    wanted = asked if isinstance(asked, list) else [asked]
    if not all(isinstance(one, dict) for one in wanted):
        raise PlanError("a query is an object, or a list of objects")
    found = [record for record in _records(ask) if any(_fits(record, one) for one in wanted)]
    if ask.flag("onlyid"):
        return as_json([record["bodyid"] for record in found])
    return as_json([_shown(ask, record) for record in found])


def _fits(record: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(_as_asked(record.get(name), value) for name, value in wanted.items())


def _as_asked(value: Any, wanted: Any) -> bool:
    """Return whether a field is as asked: equal, one of a list, `exists/0|1`, or `re/...`, which matches from its beginning."""
    if isinstance(wanted, list):
        return any(_as_asked(value, one) for one in wanted)
    if isinstance(wanted, str) and wanted.startswith("exists/"):
        return (value is not None) == (wanted == "exists/1")
    if isinstance(wanted, str) and wanted.startswith("re/"):
        try:
            return isinstance(value, str) and bool(re.match(wanted[3 : 3 + PATTERN], value))
        except re.error as error:
            raise PlanError(f"{wanted!r} is no regular expression: {error}") from None
    return bool(value == wanted) or (isinstance(value, list) and wanted in value)


# -- tarsupervoxels -------------------------------------------------------------------------------------------------------


def get_file(ask: Ask) -> Response:
    """GET supervoxel: its file."""
    found = Versioned(ask).get(_key(ask))
    if found is None:
        raise Absent(f"supervoxel {_key(ask)} has no file")
    return octets(found)


def post_file(ask: Ask) -> Response:
    """POST supervoxel: its file."""
    Versioned(ask).set(_key(ask), ask.call.body)
    return plain("")


def _supervoxels(ask: Ask) -> list[int]:
    """Return the supervoxels of the body asked for, in the labelmap that the instance is synced to."""
    for name in ask.instance.syncs:
        synced = Ask(ask.service, ask.repo, ask.uuid, instance(ask.service, ask.repo, name), ask.call)
        if synced.instance.typename == "labelmap":
            with LabelIndex(storage(synced), ask.uuid).reading() as connection:
                return label_index.supervoxels_of(connection, whole(_key(ask), "the body"))
    raise PlanError(f"{ask.instance.name} is synced to no labelmap; POST sync first")


def get_tarfile(ask: Ask) -> Response:
    """GET tarfile: the files of a body's supervoxels; those without one are listed as `.missing`."""
    kept, made = Versioned(ask), io.BytesIO()
    ending = str(ask.instance.settings.get("extension", "dat"))
    with tarfile.open(fileobj=made, mode="w") as tar:
        for sv in _supervoxels(ask):
            body = kept.get(str(sv))
            member = tarfile.TarInfo(f"{sv}.{'missing' if body is None else ending}")
            member.size = len(body or b"")
            tar.addfile(member, io.BytesIO(body or b""))
    return octets(made.getvalue())


def head_tarfile(ask: Ask) -> Response:
    """HEAD tarfile: 200 where every supervoxel has a file."""
    kept = Versioned(ask)
    if any(kept.get(str(sv)) is None for sv in _supervoxels(ask)):
        raise PlanError("not every supervoxel has a file")
    return plain("")


def get_missing(ask: Ask) -> Response:
    """GET missing: the supervoxels of a body that have no file."""
    kept = Versioned(ask)
    return as_json([sv for sv in _supervoxels(ask) if kept.get(str(sv)) is None])


def get_exists(ask: Ask) -> Response:
    """GET exists: whether each of the supervoxels in the body has a file."""
    kept = Versioned(ask)
    return as_json([kept.get(str(sv)) is not None for sv in ids(ask.call.json())])


def load(ask: Ask) -> Response:
    """POST load: a tar of files called after their supervoxels."""
    kept, files = Versioned(ask), {}
    try:
        with tarfile.open(fileobj=io.BytesIO(ask.call.body)) as tar:
            for member in tar:
                file = tar.extractfile(member)  # read, never unpacked to the disk
                if file is not None:
                    files[whole(member.name.partition(".")[0], "the name of a file")] = file.read()
    except tarfile.TarError as error:
        raise PlanError(f"the body is no tar ({error})") from None
    for sv, body in files.items():
        kept.set(str(sv), body)
    return plain("")


NEURONJSON: Table = {
    ("GET", "all"): get_all,
    ("GET", "keys"): get_keys,
    ("GET", "fields"): get_fields,
    ("GET", "key"): get_record,
    ("POST", "key"): post_record,
    ("DELETE", "key"): delete_record,
    ("GET", "query"): query,
    ("POST", "query"): query,
}
TARSUPERVOXELS: Table = {
    ("GET", "supervoxel"): get_file,
    ("POST", "supervoxel"): post_file,
    ("DELETE", "supervoxel"): delete_record,
    ("GET", "tarfile"): get_tarfile,
    ("HEAD", "tarfile"): head_tarfile,
    ("GET", "missing"): get_missing,
    ("GET", "exists"): get_exists,
    ("POST", "load"): load,
}

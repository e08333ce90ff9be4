"""What DVID answers at `/api`: the server, repositories, versions; and the way to a data instance."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from ndbatch import __version__
from ndbatch.errors import NdbatchError, NotFound, PlanError
from ndbatch.server.calls import Call, as_json, plain
from ndbatch.server.catalogue import Channel
from ndbatch.server.dvid import bodies, documents, images, labels, posted_indices, records
from ndbatch.server.dvid.asking import Ask, Busy, Refused, Table
from ndbatch.server.dvid.instance import DOCUMENTS, VOXELS, Instance, change, instance, instances, new_instance
from ndbatch.server.dvid.repository import MASTER, Repository, new_repository, repositories, resolve
from ndbatch.server.writes import keep_of_dvid

if TYPE_CHECKING:
    from ndbatch.server.service import Service

TABLES: dict[str, Table] = {
    **dict.fromkeys(VOXELS, images.TABLE),
    "labelmap": {**labels.TABLE, **bodies.TABLE, **posted_indices.TABLE},
    "keyvalue": documents.KEYVALUE,
    "annotation": documents.ANNOTATION,
    "roi": documents.ROI,
    "neuronjson": records.NEURONJSON,
    "tarsupervoxels": records.TARSUPERVOXELS,
}
READING = frozenset({("roi", "ptquery"), ("neuronjson", "query")})
"""POSTs that change nothing."""


class Versions:
    """The protocol of one service."""

    def __init__(self, service: Service) -> None:
        self.service, self.catalogue = service, service.catalogue
        self._throttled = threading.BoundedSemaphore(1)

    def handle(self, call: Call) -> Response:
        """Answer one request."""
        parts = tuple(part for part in call.names["path"].split("/") if part)
        match parts:
            case ("server", "info"):
                return as_json({"DVID Version": f"ndbatch {__version__}", "Storage backend": "ndbatch", "Cores": "1"})
            case ("server", "types" | "compiled-types"):
                return as_json(
                    {name: f"github.com/janelia-flyem/dvid/datatype/{name}" for name in (*VOXELS, *DOCUMENTS)}
                )
            case ("server", "note"):
                return plain("")
            case ("heartbeat",):
                return plain("OK")
            case ("load",):
                return as_json({"handlers active": 0})
            case ("repos", "info"):
                return as_json({repo.dag["root"]: self.about(repo) for repo in repositories(self.catalogue)})
            case ("repos",) if call.method == "POST":
                return self.new_repository(call)
            case ("repo", uuid, *rest):
                return self.repository(call, *resolve(self.catalogue, uuid), tuple(rest))
            case ("node", uuid, *rest):
                return self.node(call, *resolve(self.catalogue, uuid), tuple(rest))
        raise PlanError(f"{call.method} /api/{'/'.join(parts)} is not known here")

    def new_repository(self, call: Call) -> Response:
        """POST repos: a new one, with one version."""
        self.service.access.require_write(call)
        told = _object(call)
        alias, description = str(told.get("alias", "")), str(told.get("description", ""))
        return as_json({"root": new_repository(self.catalogue, alias, description, told.get("root"))})

    def about(self, repo: Repository) -> dict[str, Any]:
        """Return what is told of a repository."""
        dag, project = repo.dag, self.catalogue.project(repo.name)
        found = instances(self.service, repo)
        told = project.extra.get("dvid", {})
        return {
            "Root": dag["root"],
            "Alias": told.get("alias", repo.name),
            "Description": told.get("description", project.description),
            "Log": dag["log"],
            "Properties": {},
            "DataInstances": {name: one.info(repo, dag["root"]) for name, one in found.items()},
            "DAG": {"Root": dag["root"], "Nodes": dag["nodes"]},
            "MutationID": repo.mutation(),
            "SavedMutationID": repo.mutation(),
            "Created": dag["created"],
            "Updated": max(node["Updated"] for node in dag["nodes"].values()),
        }

    def repository(self, call: Call, repo: Repository, uuid: str, parts: tuple[str, ...]) -> Response:
        """Answer for a repository."""
        if call.method not in ("GET", "HEAD"):
            self.service.access.require_write(call)
        match (call.method, *parts):
            case ("HEAD",):
                return plain("")
            case ("GET", "info"):
                return as_json(self.about(repo))
            case ("POST", "info"):
                told = {name: str(value) for name, value in _object(call).items() if name in ("alias", "description")}
                extra = dict(self.catalogue.project(repo.name).extra)
                self.catalogue.change_project(repo.name, extra={**extra, "dvid": {**extra.get("dvid", {}), **told}})
                return plain("")
            case ("GET", "log"):
                return as_json({"log": repo.dag["log"]})
            case ("POST", "log"):
                with repo.changing() as dag:
                    dag["log"] += _log(call)
                return plain("")
            case ("GET", "branch-versions", name):
                return as_json(repo.branch(name))
            case ("POST", "instance"):
                if repo.locked(uuid):
                    raise Refused(f"New data instance cannot be created on locked node {uuid}")
                made = new_instance(self.service, repo, uuid, _object(call))
                return as_json({"result": f"Added {made.name} [{made.typename}] to node {uuid}"})
            case ("DELETE", name):
                return self.remove(call, repo, uuid, name)
        raise PlanError(f"{call.method} {'/'.join(parts)} is not known of a repository")

    def remove(self, call: Call, repo: Repository, uuid: str, name: str) -> Response:
        """DELETE an instance that was made through the service, from every version. Not while any version is locked."""
        if call.query.get("imsure") != "true":
            raise PlanError("removing an instance needs imsure=true")
        one = instance(self.service, repo, name)
        if one.found:
            raise Refused(f"{name} was found in the folder, and is removed there")
        if repo.locked(one.uuid):
            raise Refused(f"Cannot do DELETE of {name!r}: it is part of locked node {one.uuid}")
        with self.catalogue.transaction():
            self.catalogue.forget(repo.scope, f"instance/{name}")
            self.catalogue.remove_channel(repo.name, name)
            for version in repo.dag["nodes"]:
                self.catalogue.forget(f"{repo.scope}/{name}/{version}")
        for folder in [*one.volumes.values(), str(self.service.state / "dvid" / repo.name / name)]:
            shutil.rmtree(Path(folder), ignore_errors=True)
        self.service.voxels.forget()
        repo.changed()
        return plain("")

    def node(self, call: Call, repo: Repository, uuid: str, parts: tuple[str, ...]) -> Response:
        """Answer for a version."""
        acts: dict[tuple[str, str], Callable[[], Response]] = {
            ("GET", "status"): lambda: as_json({"Locked": repo.locked(uuid)}),
            ("GET", "commit"): lambda: as_json({"Locked": repo.locked(uuid)}),
            ("GET", "note"): lambda: as_json({"note": repo.node(uuid)["Note"]}),
            ("GET", "log"): lambda: as_json({"log": repo.node(uuid)["Log"]}),
            ("POST", "commit"): lambda: self._commit(call, repo, uuid),
            ("POST", "newversion"): lambda: self._child(call, repo, uuid, new=False),
            ("POST", "branch"): lambda: self._child(call, repo, uuid, new=True),
            ("POST", "note"): lambda: self._noted(repo, uuid, Note=str(_object(call).get("note", ""))),
            ("POST", "log"): lambda: self._noted(repo, uuid, Log=[*repo.node(uuid)["Log"], *_log(call)]),
        }
        if len(parts) == 1 and (call.method, parts[0]) in acts:
            if call.method == "POST":
                self.service.access.require_write(call)
                if repo.locked(uuid) and parts[0] in ("note", "log"):
                    raise Refused(f"Cannot do POST on locked node {uuid}")
            return acts[call.method, parts[0]]()
        if len(parts) < 2:
            raise PlanError(f"{call.method} {'/'.join(parts)} is not known of a version")
        one = instance(self.service, repo, parts[0])
        return self.data(Ask(self.service, repo, uuid, one, call, parts[2:]), parts[1])

    def _commit(self, call: Call, repo: Repository, uuid: str) -> Response:
        told = _object(call)
        with self.catalogue.transaction():
            repo.commit(uuid, str(told.get("note", "")), _log(call))
            for channel in self.catalogue.channels(repo.name):  # no other protocol changes what was committed
                one = self._of(repo, channel)
                if one is not None and one.volumes.get(uuid) == channel.url:
                    keep_of_dvid(self.service, channel, read_only=True, committed=uuid)
        return as_json({"committed": uuid})

    def _of(self, repo: Repository, channel: Channel) -> Instance | None:
        """Return the instance that a channel is; None where DVID has no type for it."""
        try:
            return instance(self.service, repo, channel.name)
        except NdbatchError:  # also one whose file is damaged
            return None

    def _child(self, call: Call, repo: Repository, uuid: str, new: bool) -> Response:
        told = _object(call) if call.body else {}
        branch = str(told.get("branch", MASTER)) if new else None
        return as_json({"child": repo.child(uuid, branch, str(told.get("note", "")), told.get("uuid"))})

    def _noted(self, repo: Repository, uuid: str, **facts: Any) -> Response:
        with repo.changing() as dag:
            dag["nodes"][uuid].update(facts)
        return plain("")

    def data(self, ask: Ask, keyword: str) -> Response:
        """Answer for a data instance."""
        method, name = ask.call.method, ask.instance.typename
        table: Table = {**_EVERY, **TABLES.get(name, {})}
        if (method, keyword) not in table:
            raise PlanError(f"{method} {keyword} is not known of a {name}")
        if method not in ("GET", "HEAD") and (name, keyword) not in READING:
            ask.service.access.require_write(ask.call)
            if ask.instance.versioned and ask.repo.locked(ask.uuid):
                raise Refused(f"Cannot do {method} on endpoint {keyword!r} of locked node {ask.uuid}")
        throttled = ask.flag("throttle")
        if throttled and not self._throttled.acquire(blocking=False):
            raise Busy("the server is at its maximum of throttled operations; ask again later")
        try:
            return table[method, keyword](ask)
        finally:
            if throttled:
                self._throttled.release()


def _object(call: Call) -> dict[str, Any]:
    """Return the body as a JSON object. PlanError where it is none, also where it is empty."""
    found = call.json()
    if not isinstance(found, dict):
        raise PlanError("Malformed JSON request in body: it is no object")
    return found


def _log(call: Call) -> list[str]:
    found = _object(call).get("log", [])
    if not isinstance(found, list):
        raise PlanError("log is a list of lines")
    return [str(line) for line in found]


def _get_info(ask: Ask) -> Response:
    return as_json(ask.instance.info(ask.repo, ask.uuid))


def _get_tags(ask: Ask) -> Response:
    return as_json(dict(ask.instance.tags))


def _post_tags(ask: Ask) -> Response:
    told = {str(name): str(value) for name, value in ask.json().items()}
    if ask.flag("replace"):
        change(ask.service, ask.repo, ask.instance.name)
        ask.repo.update(f"instance/{ask.instance.name}", lambda kept: kept.update(tags=told))
    else:
        change(ask.service, ask.repo, ask.instance.name, tags=told)
    return plain("")


def _post_sync(ask: Ask) -> Response:
    names = tuple(name.strip() for name in str(ask.json().get("sync", "")).split(",") if name.strip())
    missing = [name for name in names if name not in instances(ask.service, ask.repo)]
    if missing:
        raise NotFound(f"invalid data instance name: {missing[0]!r}")
    kept = () if ask.flag("replace") else ask.instance.syncs
    change(ask.service, ask.repo, ask.instance.name, syncs=tuple(dict.fromkeys((*kept, *names))))
    return plain("")


_EVERY: Table = {
    ("GET", "info"): _get_info,
    ("GET", "tags"): _get_tags,
    ("POST", "tags"): _post_tags,
    ("POST", "sync"): _post_sync,
}

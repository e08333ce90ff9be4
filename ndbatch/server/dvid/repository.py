"""Repositories: projects of the catalogue with a graph of versions, kept as documents.

The root of a project that was found in the folder has the name that its own name gives, so that addresses outlive the
catalogue; other versions are named at random.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ndbatch.errors import Conflict, NotFound, PlanError
from ndbatch.server.catalogue import Catalogue, Project
from ndbatch.server.dvid.asking import Refused, document

UUID = re.compile(r"[0-9a-f]{32}")
MASTER = "master"


def now() -> str:
    """Return the time as JSON keeps it."""
    return datetime.now(UTC).isoformat()


@dataclass(frozen=True)
class Repository:
    """One project seen as a repository. Every method asks the catalogue anew, for other processes change it too."""

    catalogue: Catalogue
    name: str

    @property
    def scope(self) -> str:
        """Scope of its documents."""
        return f"dvid:{self.name}"

    @property
    def dag(self) -> dict[str, Any]:
        """The versions: `root`, and `nodes` by name, as `/info` tells them."""
        kept = self.catalogue.document(self.scope, "dag")
        if kept is not None:
            found: dict[str, Any] = json.loads(kept)
            return found
        project = self.catalogue.project(self.name)
        root = secrets.token_hex(16) if project.made else hashlib.md5(f"dvid:{self.name}".encode()).hexdigest()
        with self.catalogue.transaction():
            if self.catalogue.document(self.scope, "dag") is None:
                self.catalogue.keep(self.scope, "dag", document(_new_dag(root, 1)))
        return self.dag

    @contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """Yield the versions to be changed, and keep them, in one transaction."""
        before = self.dag  # made, where it is not there yet
        with self.catalogue.transaction():
            before = self.dag
            yield before
            self.catalogue.keep(self.scope, "dag", document(before))

    def node(self, uuid: str) -> dict[str, Any]:
        """Return one version. NotFound."""
        nodes = self.dag["nodes"]
        if uuid not in nodes:
            raise NotFound(f"UUID is not present in datastore: {uuid}")
        found: dict[str, Any] = nodes[uuid]
        return found

    def locked(self, uuid: str) -> bool:
        """Return whether a version is locked."""
        return bool(self.node(uuid)["Locked"])

    def lineage(self, uuid: str) -> list[str]:
        """Return a version and its ancestors, nearest first."""
        nodes = self.dag["nodes"]
        names = {node["VersionID"]: name for name, node in nodes.items()}
        found, waiting = [], [uuid]
        while waiting:
            one = waiting.pop(0)
            if one not in found:
                found.append(one)
                waiting += [names[parent] for parent in nodes[one]["Parents"]]
        return found

    def commit(self, uuid: str, note: str, log: list[str]) -> None:
        """Lock a version. Refused where it is locked already."""
        with self.changing() as dag:
            node = dag["nodes"][uuid]
            if node["Locked"]:
                raise Refused("Could not post to locked node")
            node.update(Locked=True, Note=note or node["Note"], Log=[*node["Log"], *log], Updated=now())

    def child(self, parent: str, branch: str | None, note: str, name: str | None) -> str:
        """Add a version below a locked one, on its branch or on a new one, and return its name. Refused, PlanError."""
        if name is not None and not UUID.fullmatch(name):
            raise PlanError(f"the uuid {name!r} must be 32 hexadecimal digits")
        with self.changing() as dag:
            nodes = dag["nodes"]
            if not nodes[parent]["Locked"]:
                raise Refused("can't branch an unlocked node")
            kept = nodes[parent]["Branch"] if branch is None else branch
            if branch is None and any(
                node["Branch"] == kept and nodes[parent]["VersionID"] in node["Parents"] for node in nodes.values()
            ):
                raise Refused(f"{parent} has a child on branch {kept or MASTER!r} already; make a new branch")
            if branch is not None and (
                branch in ("", MASTER) or any(node["Branch"] == branch for node in nodes.values())
            ):
                raise Refused(f"branch already exists with given name: {branch!r}")
            uuid = name or secrets.token_hex(16)
            if uuid in nodes:
                raise Refused("UUID already exists in datastore")
            version = 1 + max(node["VersionID"] for node in nodes.values())
            nodes[parent]["Children"].append(version)
            nodes[uuid] = _new_node(uuid, version, kept, note, [nodes[parent]["VersionID"]])
            return uuid

    def branch(self, name: str) -> list[str]:
        """Return the versions of a branch, its leaf first, on to the root. NotFound for an unknown one."""
        kept = "" if name == MASTER else name
        nodes = self.dag["nodes"]
        on_it = [uuid for uuid, node in nodes.items() if node["Branch"] == kept]
        if not on_it:
            raise NotFound(f"branch {name!r} is not found in the repo of {self.dag['root']}")
        return self.lineage(max(on_it, key=lambda uuid: int(nodes[uuid]["VersionID"])))

    def mutation(self) -> int:
        """Return the number of the last change; it only rises."""
        return int(self.catalogue.document(self.scope, "mutation") or 0)

    def changed(self) -> int:
        """Count a change of whatever the repository holds, and return its number."""
        with self.catalogue.transaction():
            number = self.catalogue.reserve(f"{self.scope}:mutation", 1, 1000000000)
            self.catalogue.keep(self.scope, "mutation", str(number).encode())
            return number

    def update(self, key: str, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Change the JSON document kept under `key`, in one transaction, and return it."""
        with self.catalogue.transaction():
            kept = self.catalogue.document(self.scope, key)
            found: dict[str, Any] = json.loads(kept) if kept else {}
            change(found)
            self.catalogue.keep(self.scope, key, document(found))
            return found


def repositories(catalogue: Catalogue) -> list[Repository]:
    """Return all repositories."""
    return [Repository(catalogue, project.name) for project in catalogue.projects()]


def resolve(catalogue: Catalogue, text: str) -> tuple[Repository, str]:
    """Return repository and full name of a version: a name, a prefix that only it has, `uuid:branch`, or `:branch`.

    NotFound where there is none, PlanError where several begin so.
    """
    start, colon, branch = text.partition(":")
    known = repositories(catalogue)
    if colon and not start:
        if len(known) != 1:
            raise PlanError(f"there are {len(known)} repositories; write the UUID before :{branch}")
        return known[0], known[0].branch(branch)[0]
    found = [(repo, uuid) for repo in known for uuid in repo.dag["nodes"] if start and uuid.startswith(start)]
    exact = [pair for pair in found if pair[1] == start]
    roots = {repo.name for repo, _ in found}
    if not found:
        raise NotFound(f"could not find UUID with partial match to {start!r}: UUID is not present in datastore")
    if len(exact or found) > 1 and not (colon and len(roots) == 1):
        raise PlanError(f"more than one UUID begins with {start!r}")
    repo, uuid = (exact or found)[0]
    return repo, repo.branch(branch)[0] if colon else uuid


def new_repository(catalogue: Catalogue, alias: str, description: str, root: str | None) -> str:
    """Make a project, and return the root of its repository. Its name is the alias, or something like it that is free."""
    if root is not None and not UUID.fullmatch(root):
        raise PlanError(f"the root {root!r} must be 32 hexadecimal digits")
    base = re.sub(r"[^A-Za-z0-9_-]+", "_", alias).strip("_")[:200] or "repo"
    for name in (base, *(f"{base}_{number}" for number in range(2, 10000))):
        project = Project(name, base, (1, 1, 1), description=description, made=True, extra={"dvid": {"alias": alias}})
        with catalogue.transaction():
            try:
                catalogue.add_project(project)
            except Conflict:
                continue
            uuid = root or secrets.token_hex(16)
            number = catalogue.reserve("dvid:version", 1)
            catalogue.keep(f"dvid:{name}", "dag", document(_new_dag(uuid, number)))
            return uuid
    raise PlanError(f"there are too many repositories called {base}")


def _new_dag(root: str, version: int) -> dict[str, Any]:
    return {"root": root, "created": now(), "log": [], "nodes": {root: _new_node(root, version, "", "", [])}}


def _new_node(uuid: str, version: int, branch: str, note: str, parents: list[int]) -> dict[str, Any]:
    return {
        "Branch": branch,
        "Note": note,
        "Log": [],
        "UUID": uuid,
        "VersionID": version,
        "Locked": False,
        "Parents": parents,
        "Children": [],
        "Created": now(),
        "Updated": now(),
    }

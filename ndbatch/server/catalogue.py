"""What a service serves: datasets, projects and channels, whatever protocol asks; and small documents kept for protocols.

One table of channels stands behind all protocols. The words are those of ndstore; BOSS calls a dataset a collection and a
project an experiment, DVID calls a project a repository and a channel an instance. Everything is in one SQLite file, so that
several processes may serve the same folder.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ndbatch.errors import Conflict, NotFound, PlanError
from ndbatch.geometry import Shape
from ndbatch.portable import Portable
from ndbatch.server.mark import Kept, Mark

T = TypeVar("T")
NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
"""What datasets, projects and channels may be called; protocols may be stricter."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS project (name TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS channel (project TEXT, name TEXT, body TEXT NOT NULL, PRIMARY KEY (project, name));
CREATE TABLE IF NOT EXISTS document (scope TEXT, key TEXT, value BLOB NOT NULL, PRIMARY KEY (scope, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, next INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class Project:
    """A frame that channels share. `shape`, `offset` and `voxel_size` (micrometres) are z, y, x at level 0."""

    name: str
    dataset: str
    shape: Shape
    offset: Shape = (0, 0, 0)
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scaling: str = "zslices"
    """How levels follow from level 0: `zslices` halves y and x only, `isotropic` all three."""
    levels: int = 1
    times: int = 1
    description: str = ""
    made: bool = False
    """Made through the service, not found in the folder."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What protocols keep of it that ndbatch has no word for, by the protocol's name."""


@dataclass(frozen=True)
class Channel:
    """One volume of a project. `url` is what `ndbatch.open` takes, level 0."""

    project: str
    name: str
    url: str
    kind: str
    """image, labels or probability."""
    dtype: str
    levels: int = 1
    read_only: bool = False
    description: str = ""
    made: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


class Catalogue:
    """The tables, in the SQLite file `path`, of what lies in the folder `root` or elsewhere. Safe for threads and processes."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self.portable = Portable(root)
        self.look: Callable[[], object] = lambda: None
        """Called before projects or channels are listed, and where one is asked for that is not known: finds new ones."""
        self._local = threading.local()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._mark = Mark(path.with_suffix(".mark"))
        self._known: Kept[Any] = Kept(1024)
        with self.transaction() as connection:
            for statement in SCHEMA.split(";"):
                connection.execute(statement)

    @property
    def version(self) -> bytes:
        """What is another after every change of the tables, by any process."""
        return self._mark.value

    # -- projects and channels ---------------------------------------------------------------------------------------

    def projects(self) -> list[Project]:
        """Return all projects, sorted by name."""
        self._look()
        return [self._project(body) for (body,) in self.rows("SELECT body FROM project ORDER BY name")]

    def project(self, name: str) -> Project:
        """Return one project; NotFound where there is none."""
        for looked in (False, True):
            if looked:
                self._look()
            found = self._kept(self._project, "SELECT body FROM project WHERE name = ?", name)
            if found is not None:
                return found
        raise NotFound(f"there is no project {name}; known: {', '.join(p.name for p in self.projects()) or 'none'}")

    def channels(self, project: str) -> list[Channel]:
        """Return the channels of a project, sorted by name."""
        self._look()
        rows = self.rows("SELECT body FROM channel WHERE project = ? ORDER BY name", project)
        return [self._channel(body) for (body,) in rows]

    def channel(self, project: str, name: str) -> Channel:
        """Return one channel; NotFound where there is none."""
        for looked in (False, True):
            if looked:
                self._look()
            found = self._kept(self._channel, "SELECT body FROM channel WHERE project = ? AND name = ?", project, name)
            if found is not None:
                return found
        self.project(project)
        raise NotFound(f"there is no channel {name} in {project}")

    def _look(self) -> None:
        """Look for new volumes, but never within a transaction, which others wait for."""
        if not self._connection().in_transaction:
            self.look()

    def add_project(self, project: Project) -> None:
        """Keep a new project; Conflict where the name is taken, PlanError where it is no name."""
        _require_name(project.name)
        self._insert("INSERT INTO project VALUES (?, ?)", project.name, self.portable.text(asdict(project)))

    def add_channel(self, channel: Channel) -> None:
        """Keep a new channel of a project that is there; Conflict where the name is taken."""
        _require_name(channel.name)
        self.project(channel.project)
        body = self.portable.text(asdict(channel))
        self._insert("INSERT INTO channel VALUES (?, ?, ?)", channel.project, channel.name, body)

    def change_project(self, name: str, **changes: Any) -> Project:
        """Replace fields of a project, in one transaction."""
        with self.transaction() as connection:
            changed = replace(self.project(name), **changes)
            body = self.portable.text(asdict(changed))
            connection.execute("UPDATE project SET body = ? WHERE name = ?", (body, name))
            return changed

    def change_channel(self, project: str, name: str, **changes: Any) -> Channel:
        """Replace fields of a channel, in one transaction."""
        with self.transaction() as connection:
            changed = replace(self.channel(project, name), **changes)
            body = self.portable.text(asdict(changed))
            connection.execute("UPDATE channel SET body = ? WHERE project = ? AND name = ?", (body, project, name))
            return changed

    def remove_channel(self, project: str, name: str) -> None:
        """Forget a channel; its voxels are the caller's to delete."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM channel WHERE project = ? AND name = ?", (project, name))

    def remove_project(self, name: str) -> None:
        """Forget a project; Conflict while it has channels."""
        with self.transaction() as connection:
            if self.channels(name):
                raise Conflict(f"{name} still has channels; delete them first")
            connection.execute("DELETE FROM project WHERE name = ?", (name,))

    # -- documents and counters, for the protocols ------------------------------------------------------------------------

    def document(self, scope: str, key: str) -> bytes | None:
        """Return the bytes kept under `key`, None where there are none."""
        return next(
            (value for (value,) in self.rows("SELECT value FROM document WHERE scope=? AND key=?", scope, key)), None
        )

    def keys(self, scope: str, first: str = "", last: str = "\U0010ffff") -> list[str]:
        """Return the keys of a scope from `first` to `last`, both included, sorted by code point."""
        rows = self.rows(
            "SELECT key FROM document WHERE scope=? AND key BETWEEN ? AND ? ORDER BY key", scope, first, last
        )
        return [key for (key,) in rows]

    def keep(self, scope: str, key: str, value: bytes) -> None:
        """Keep bytes under `key`, in place of what was there."""
        with self.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO document VALUES (?, ?, ?)", (scope, key, value))

    def forget(self, scope: str, key: str | None = None) -> int:
        """Remove one document of a scope, or all of them, and return how many there were."""
        with self.transaction() as connection:
            if key is None:
                return connection.execute("DELETE FROM document WHERE scope=?", (scope,)).rowcount
            return connection.execute("DELETE FROM document WHERE scope=? AND key=?", (scope, key)).rowcount

    def reserve(self, counter: str, count: int, at_least: int = 1) -> int:
        """Take `count` numbers in a row from a counter and return the first; no number is ever given twice."""
        with self.transaction() as connection:
            row = connection.execute("SELECT next FROM counter WHERE name = ?", (counter,)).fetchone()
            first = max(at_least, row[0] if row else 1)
            connection.execute("INSERT OR REPLACE INTO counter VALUES (?, ?)", (counter, first + count))
            return first

    # -- SQLite -------------------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield this thread's connection in a transaction that is kept if nothing is raised; others wait meanwhile."""
        connection = self._connection()
        if connection.in_transaction:
            yield connection
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        self._mark.change()  # before the write is answered

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # an answered write survives a power cut
            connection.execute("PRAGMA cache_size = -256")  # KiB; one for each thread
            self._local.connection = connection
        found: sqlite3.Connection = self._local.connection
        return found

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return what a SELECT gives; it waits for nobody."""
        return self._connection().execute(statement, values).fetchall()

    def _kept(self, make: Callable[[str], T], statement: str, *values: str) -> T | None:
        """Return what `make` makes of the only row of a SELECT, None where there is none; made once, until something changes."""

        def made() -> T | None:
            return next((make(body) for (body,) in self.rows(statement, *values)), None)

        if self._connection().in_transaction:  # which sees what it changed itself
            return made()
        kept: T | None = self._known.get(self.version, (statement, *values), made)
        return kept

    def _project(self, body: str) -> Project:
        facts = self.portable.facts(body)
        return Project(**{**facts, **{name: tuple(facts[name]) for name in ("shape", "offset", "voxel_size")}})

    def _channel(self, body: str) -> Channel:
        return Channel(**self.portable.facts(body))

    def _insert(self, statement: str, *values: Any) -> None:
        try:
            with self.transaction() as connection:
                connection.execute(statement, values)
        except sqlite3.IntegrityError:
            raise Conflict(f"{' / '.join(map(str, values[:-1]))} is there already") from None


def _require_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise PlanError(f"{name!r} is no name: letters, digits, _ and -, at most 255")

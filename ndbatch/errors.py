"""The errors of ndbatch, one family for each thing a reader can do about them.

NdbatchError
├── ConfigError        fix the file          (file, line, field path, allowed values)
├── PlanError          change the request    (which rule, by how much, a value that would pass)
├── MissingExtra       install a package     (the command)
├── RemoteError        look at the volume or the service   (url)
│   ├── Transient      retried for you
│   ├── Denied         fix the credentials or the permissions
│   ├── NotFound       fix the address
│   ├── Conflict       something else is there already
│   ├── NoRoom         free some space
│   └── Corrupt        the data cannot be decoded
├── ClusterError       look at the cluster or its queue (its own words)
├── StepError          fix your function     (block, the function's own traceback)
│   ├── OutOfMemory    smaller blocks or more memory a worker
│   ├── TimeLimit      a longer limit or a faster function
│   └── WorkerKilled   the process died under the block
├── JournalError       do not trust resume   (path, what to run)
└── Interrupted        run the same command again

None derives from ValueError, so that a broad `except ValueError` never swallows one. All of them pickle with their fields.
"""

from __future__ import annotations

from typing import Any


class NdbatchError(Exception):
    """Root of all errors that ndbatch raises on purpose.

    `message` is one sentence for the reader: what, where, what to do next. `fields` are the same facts for a program.
    """

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.fields)

    def __str__(self) -> str:
        return self.message


def _rebuild(kind: type[NdbatchError], message: str, fields: dict[str, Any]) -> NdbatchError:
    """Unpickle an error of any family with its fields."""
    return kind(message, **fields)


class ConfigError(NdbatchError):
    """The configuration file is wrong: fix the file."""


class PlanError(NdbatchError):
    """The request cannot be carried out as it stands: change it."""


class MissingExtra(NdbatchError):
    """A package that this feature needs is not installed."""


class RemoteError(NdbatchError):
    """A volume or the service that holds it answered with an error."""


class Transient(RemoteError):
    """A fault that may pass by itself; the engine tries again."""


class Denied(RemoteError):
    """Credentials or file permissions do not allow it."""


class NotFound(RemoteError):
    """Nothing is at this address."""


class Conflict(RemoteError):
    """Something else is at this address already."""


class NoRoom(RemoteError):
    """The disk or the quota of what is written to is full."""


class Corrupt(RemoteError):
    """The stored bytes cannot be decoded: truncated, damaged or of another format."""


class ClusterError(NdbatchError):
    """A cluster or a queue gives no workers, or workers that cannot do the work."""


class StepError(NdbatchError):
    """A step's function failed on a block or returned what it did not declare."""


class OutOfMemory(StepError):
    """A block needed more memory than its worker was promised."""


class TimeLimit(StepError):
    """A block took longer than `time_limit`."""


class WorkerKilled(StepError):
    """The worker process died while it computed a block."""


class JournalError(NdbatchError):
    """The journal of a run cannot be trusted or used."""


class Interrupted(NdbatchError):
    """The run was stopped; the same command continues it."""


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtra:
    """Return the error for an absent optional `package`, with the command that installs it."""
    command = f'pip install "ndbatch[{extra}]"'
    return MissingExtra(f"{purpose} needs the package {package}: {command}", package=package, command=command)

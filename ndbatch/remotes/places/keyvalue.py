"""Bytes under names, wherever they are: a folder of this machine, a bucket (s3://, gs://), a web server, a zip file.

Formats that are folders of many files (zarr, n5, precomputed) keep their metadata through a `KeyValue`, and hand its
`spec()` to tensorstore for the voxels, so that one code reads and writes them everywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ndbatch.errors import Corrupt, RemoteError
from ndbatch.remotes.address import Address
from ndbatch.remotes.files.paths import file_error

AGAIN = 4
"""Attempts to read from a web server what cannot be decoded: it may have been damaged on the way."""
FILES = 20_000
"""Files whose size and time `digest` looks at."""
FOLDERS = 100_000
"""Folders of this machine whose time `digest` looks at."""
ZIPPED = re.compile(r"(?P<file>.*?[^/]\.(?:zip|ozx))(?:/(?P<inside>.*))?", re.IGNORECASE)
"""A path that leads to a zip file or into one."""


class KeyValue(ABC):
    """A folder of named bytes. Keys are relative to it, parted by `/`; nothing is read when it is made."""

    writable: bool = True
    """Whether bytes can be written at all; a permission may still be missing."""

    def __init__(self, address: Address, where: str) -> None:
        self.address = address
        self.where = where
        """The folder as a user would write it, without a slash at the end."""

    @property
    def name(self) -> str:
        """The last part of the folder's name."""
        return self.where.rpartition("/")[2]

    def __truediv__(self, name: str) -> KeyValue:
        return self.child(name)

    def __str__(self) -> str:
        return self.where

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Return the tensorstore kvstore JSON of this folder, which ends in `/`. It holds no secret."""

    @abstractmethod
    def child(self, name: str) -> KeyValue:
        """Return the folder `name` below this one, whether it is there or not; `name` may have several parts."""

    @property
    @abstractmethod
    def parent(self) -> KeyValue | None:
        """The folder above, or None at the top of a place."""

    @property
    def parents(self) -> Iterator[KeyValue]:
        """The folders above, the nearest first."""
        folder = self.parent
        while folder is not None:
            yield folder
            folder = folder.parent

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """Return the bytes of `key`, None where it is absent. Raises Denied, Transient."""

    def document(self, key: str) -> dict[str, Any] | None:
        """Return the JSON object that `key` holds, None where it is absent.

        What came by a web server and cannot be understood is asked for again: it may have been damaged on the way.
        Raises Corrupt, Denied, Transient.
        """
        web = self.address.place in ("http", "https")
        for _ in range(AGAIN - 1 if web else 0):
            with suppress(Corrupt):
                return self._document(key, web)
        return self._document(key, web)

    def _document(self, key: str, passing: bool) -> dict[str, Any] | None:
        data = self.read(key)
        if data is None:
            return None
        try:
            document, why = json.loads(data), "it is not a JSON object"
        except ValueError as error:
            document, why = None, f"it is not JSON ({error})"
        if isinstance(document, dict):
            return document
        raise Corrupt(f"{self.where}/{key} is damaged: {why}", url=self.address.url, passing=passing)

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Store the whole of `key`; nobody sees a part of it. Raises Denied, Transient, RemoteError for a full disk."""

    @abstractmethod
    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield the names directly below the folder `prefix` (it ends in `/`), sorted; folders end in `/`.

        Nothing is yielded where there is no such folder. Raises Denied, Transient; NotFound for a missing bucket;
        RemoteError where the place cannot list.
        """

    @abstractmethod
    def exists(self, key: str = "") -> bool:
        """Return whether `key` is there, as bytes or as a folder that is not empty. Raises Denied, Transient."""

    @abstractmethod
    def delete(self, prefix: str = "") -> None:
        """Remove the bytes of this name, and all below the folder; nothing happens where there is none.

        What is directly in the folder goes first, so that half removed it never looks whole. Raises Denied, Transient.
        """

    @abstractmethod
    def missing(self) -> RemoteError | None:
        """Return the error for a folder that is not there, with the nearest name; None where something is there."""

    def require_writable(self) -> None:
        """Raise Denied for a place that is read only, whoever asks."""
        return  # unless the place says so

    @abstractmethod
    def etag(self, key: str) -> str:
        """Return a string that changes when the bytes of `key` are replaced; empty where absent or the place tells none."""

    @abstractmethod
    def digest(self, ignored: Collection[str] = ()) -> str:
        """Return a digest that changes when files below may have changed, without reading them.

        Files named in `ignored` do not count. What a place cannot see is said where it is implemented.
        """

    @abstractmethod
    def stored_bytes(self) -> int | None:
        """Return the bytes of all files below; None where that would take long (more than 20 000 files) or cannot be known."""

    @contextmanager
    def published(self) -> Iterator[KeyValue]:
        """Give a folder to write into that becomes this one at the end: at once on this machine, elsewhere as written.

        In a bucket every object appears as soon as it is written; write last what makes the whole visible.
        """
        yield self


def place(address: Address) -> KeyValue:
    """Return the folder that the path of `address` names: local, in a bucket, on a web server, or inside a zip file."""
    if address.place == "file":
        zipped = ZIPPED.fullmatch(address.path)
        if zipped is None or os.path.isdir(zipped["file"]):
            return LocalFiles(address, Path(address.path))
    from ndbatch.remotes.places.objects import remote

    return remote(address)


class LocalFiles(KeyValue):
    """A folder of this machine; files are written under a temporary name, brought to the disk and renamed."""

    def __init__(self, address: Address, path: Path) -> None:
        super().__init__(address, str(path))
        self.path = path

    def spec(self) -> dict[str, Any]:
        """Return `{driver: file, path: .../}`."""
        return {"driver": "file", "path": f"{self.path}/"}

    def child(self, name: str) -> LocalFiles:
        """Return the folder `name` below this one."""
        return LocalFiles(self.address, self.path / name.strip("/"))

    @property
    def parent(self) -> LocalFiles | None:
        """The folder above; None above the root, and above the first part of a relative path."""
        return LocalFiles(self.address, self.path.parent) if self.path.parent != self.path else None

    def read(self, key: str) -> bytes | None:
        """Return the bytes of a file, None where there is none."""
        try:
            return (self.path / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise self._error(error) from None

    def write(self, key: str, data: bytes) -> None:
        """Write a file under a temporary name, synchronise it and rename it; folders are made as needed."""
        target = self.path / key
        aside = target.with_name(f"{target.name}.new")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, target)
        except OSError as error:
            with suppress(OSError):  # half a file would make the folder look like one that holds something
                aside.unlink()
            raise self._error(error) from None

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield what is in a folder, sorted by name."""
        try:
            with os.scandir(self.path / prefix) as entries:
                found = sorted(entry.name + "/" * entry.is_dir() for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._error(error) from None
        yield from found

    def exists(self, key: str = "") -> bool:
        """Return whether anything but an empty folder is there."""
        path = self.path / key
        try:
            os.stat(path)
            return not (path.is_dir() and not any(path.iterdir()))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise self._error(error) from None

    def delete(self, prefix: str = "") -> None:
        """Remove a file, or a folder: renamed first, so that a half-removed one never looks whole."""
        path = self.path / prefix.rstrip("/")
        aside = path.with_name(f".{path.name}.deleted")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            if path.is_dir() and not path.is_symlink():
                os.rename(path, aside)
                shutil.rmtree(aside)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise self._error(error) from None

    def missing(self) -> RemoteError | None:
        """Return the error of the operating system for this path, with the nearest name in its folder."""
        try:
            os.stat(self.path)
        except OSError as error:
            return file_error(error, replace(self.address, path=self.where))
        return None

    def etag(self, key: str) -> str:
        """Return size and modification time of a file, in nanoseconds."""
        try:
            facts = os.stat(self.path / key)
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            raise self._error(error) from None
        return f"{facts.st_size}-{facts.st_mtime_ns}"

    def digest(self, ignored: Collection[str] = ()) -> str:
        """Hold the name and time of every folder, and the size and time of every file while there are at most 20 000.

        Writers that replace a file by renaming (tensorstore, zarr-python) change its folder's time, so that larger
        folders are covered too; a tool that writes into a file in place is seen only up to 20 000 files. Beyond
        100 000 folders only the first of them, in order of name, count.
        """
        found, files, root = hashlib.sha256(), 0, str(self.path)
        try:
            for number, (folder, inner, leaves) in enumerate(os.walk(root)):
                inner.sort()
                data = [leaf for leaf in sorted(leaves) if leaf.removesuffix(".new") not in ignored]
                files += len(data)
                marks = []
                if number or data:
                    marks.append(f"{os.path.relpath(folder, root)} {os.stat(folder).st_mtime_ns}")
                if files <= FILES:
                    facts = [(leaf, os.stat(os.path.join(folder, leaf))) for leaf in data]
                    marks += [f"{leaf} {stat.st_size} {stat.st_mtime_ns}" for leaf, stat in facts]
                found.update("\n".join([*marks, f"{len(data)}\n"]).encode())
                if number >= FOLDERS:
                    break
        except OSError as error:
            raise self._error(error) from None
        return found.hexdigest()[:20]

    def stored_bytes(self) -> int | None:
        """Return the bytes of all files below, or of this file; None beyond 20 000 files."""
        size, files = 0, 0
        try:
            if self.path.is_file():
                return self.path.stat().st_size
            for folder, _, leaves in os.walk(self.path):
                size += sum(os.stat(os.path.join(folder, leaf)).st_size for leaf in leaves)
                files += len(leaves)
                if files > FILES:
                    return None
        except OSError as error:
            raise self._error(error) from None
        return size

    @contextmanager
    def published(self) -> Iterator[LocalFiles]:
        """Give a hidden folder beside this one, renamed at the end. Raises what writing raises; Conflict is the caller's."""
        aside = self.path.with_name(f".{self.path.name}.new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            yield LocalFiles(self.address, aside)
            os.rename(aside, self.path)
        except OSError as error:
            raise self._error(error) from None

    def _error(self, error: OSError) -> RemoteError:
        return file_error(error, self.address)

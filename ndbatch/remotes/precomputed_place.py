"""The folder of a precomputed layer on this machine, as keys and bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ndbatch.errors import PlanError
from ndbatch.remotes.address import Address
from ndbatch.remotes.files import file_error


class KeyValue:
    """Objects below one folder, by the name of their path in it."""

    def __init__(self, folder: Path, address: Address) -> None:
        self._folder, self._address = folder, address

    def spec(self) -> dict[str, Any]:
        """Return the JSON that tensorstore opens the folder with."""
        return {"driver": "file", "path": f"{self._folder}/"}

    def child(self, name: str) -> KeyValue:
        """Return the folder `name` in this one."""
        return KeyValue(self._folder / name, self._address)

    def read(self, key: str) -> bytes | None:
        """Return an object, or None where there is none."""
        try:
            return (self._folder / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise file_error(error, self._address) from None

    def write(self, key: str, data: bytes) -> None:
        """Store an object in one step: under another name first, then renamed."""
        path = self._folder / key
        aside = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(data)
            os.replace(aside, path)
        except OSError as error:
            raise file_error(error, self._address) from None

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield the names directly below; folders end in a slash."""
        try:
            for entry in os.scandir(self._folder / prefix):
                yield f"{entry.name}/" if entry.is_dir() else entry.name
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise file_error(error, self._address) from None

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        return (self._folder / key).is_file()

    def delete(self, prefix: str = "") -> None:
        """Remove an object, or all below a folder and the folder."""
        path = self._folder / prefix
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        except OSError as error:
            raise file_error(error, self._address) from None

    def digest(self) -> str:
        """Return a digest of the names, sizes and times of the objects."""
        found = hashlib.sha256()
        for folder, names, leaves in os.walk(self._folder):
            names.sort()
            for leaf in sorted(leaves):
                facts = os.stat(os.path.join(folder, leaf))
                found.update(f"{leaf} {facts.st_size} {facts.st_mtime_ns}\n".encode())
        return found.hexdigest()[:20]


def place(address: Address) -> KeyValue:
    """Return the folder that `address` names; PlanError for what is not on this machine."""
    if address.place != "file":
        raise PlanError(f"{address.url}: precomputed layers are read from this machine only")
    return KeyValue(Path(address.path), address)

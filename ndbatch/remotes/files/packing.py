"""Files that are compressed as a whole, and so cannot be written block by block: written raw first, packed at the end.

The raw file has a working name beside the other (`.a.nii.gz.unpacked`). It is packed when the volume that wrote it is closed,
at the latest when the process ends; until then everybody who opens the address reads it, so that what was written is never
lost or unseen.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from pathlib import Path

from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Volume
from ndbatch.remotes.files.paths import file_error

Pack = Callable[[Path, Address], None]
"""Makes the packed file of an address from the raw one, at once or not at all. Raises OSError."""


def working_path(path: Path, part: str = "") -> Path:
    """Return the name under which the file at `path` (or a part of it) is written raw."""
    return path.with_name(f".{path.name}{part and f'.{part}'}.unpacked")


def is_working(path: Path, part: str = "") -> bool:
    """Return whether a raw file waits to be packed into `path`; False where that cannot be seen."""
    return os.path.exists(working_path(path, part))


class Packing:
    """The duty of a volume to pack its working file; done once, by the process that wrote."""

    def __init__(self, owner: Volume, working: Path, pack: Pack) -> None:
        self._finish = weakref.finalize(owner, _finish, working, pack, owner.address, os.getpid())

    def done(self) -> None:
        """Pack now; errors come out as ndbatch's. Nothing happens a second time."""
        self._finish()


def _finish(working: Path, pack: Pack, address: Address, process: int) -> None:
    if os.getpid() != process or not os.path.exists(working):
        return
    try:
        pack(working, address)
        working.unlink(missing_ok=True)
    except OSError as error:
        raise file_error(error, address) from None

"""Volumes that are one file, here or at another place: what is wrong with a path, in a sentence, and when the file last
changed."""

from __future__ import annotations

import difflib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ndbatch.errors import Corrupt, Denied, NoRoom, NotFound, PlanError, RemoteError, Transient
from ndbatch.remotes.address import Address

if TYPE_CHECKING:
    from ndbatch.remotes.places.far import FilePath

_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EINTR)


def file_path(address: Address) -> FilePath:
    """Return the path of a file of this machine, or of one in a bucket or on a web server, whether it is there or not."""
    if address.place == "file":
        return Path(address.path)
    from ndbatch.remotes.places.far import FarPath

    return FarPath(address)


def require_file(address: Address, format_name: str) -> FilePath:
    """Return the path of an existing file that is not empty.

    Raises NotFound (with the nearest name in its folder), Denied, Transient, or Corrupt for an empty one.
    """
    path = file_path(address)
    try:
        if isinstance(path, Path) and path.is_dir():
            raise NotFound(f"{path} is a folder, not a {format_name} file; name the file", url=address.url)
        if path.stat().st_size == 0:
            raise Corrupt(f"{path} is empty (0 bytes); it is not a {format_name} file", url=address.url)
    except OSError as error:
        raise file_error(error, address) from None
    return path


def is_there(address: Address) -> bool:
    """Return whether anything is at the path; Denied where that cannot be seen."""
    path = file_path(address)
    if not isinstance(path, Path):
        return path.exists()
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise file_error(error, address) from None
    return True


def file_version(path: FilePath, address: Address) -> str:
    """Return the size and the modification time of a file, in nanoseconds; its tag at another place."""
    if not isinstance(path, Path):
        return path.version
    try:
        facts = path.stat()
    except OSError as error:
        raise file_error(error, address) from None
    return f"{facts.st_size}-{facts.st_mtime_ns}"


def require_room(path: Path, nbytes: int, address: Address) -> None:
    """Raise RemoteError where the file system of `path` has less than `nbytes` free; it must exist or have a folder."""
    try:
        facts = os.statvfs(path if path.exists() else path.parent)
    except OSError as error:
        raise file_error(error, address) from None
    free = facts.f_bavail * facts.f_frsize
    if free < nbytes:
        raise NoRoom(
            f"{path}: no room to write: {nbytes / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free; free some space, then "
            "run again",
            url=address.url,
        )


def file_error(error: OSError, address: Address) -> RemoteError:
    """Return what the operating system said of a path as one of ndbatch's errors."""
    path, reason = Path(address.path), error.strerror or str(error)
    number = error.errno
    if number in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(f"{path} does not exist{_nearest(path)}", url=address.url)
    if number in _DENIED:
        return Denied(f"{path}: {reason}; change the permissions or choose another path", url=address.url)
    if number in _FULL:
        return NoRoom(f"{path}: no room to write ({reason}); free some space, then run again", url=address.url)
    if number in _PASSING:
        return Transient(f"{path}: {reason}", url=address.url)
    return RemoteError(f"{path}: {reason}", url=address.url)


def require_local(address: Address) -> None:
    """Raise PlanError for a file elsewhere that is to be written or removed: what is there is replaced as a whole only."""
    if address.place != "file":
        raise PlanError(
            f"{address.url}: a file of the format {address.scheme} is written on this machine only; write it here and copy it "
            "there, or keep the volume as zarr, n5 or precomputed there"
        )


def _nearest(path: Path) -> str:
    """Return what is there instead: the nearest name in the folder, or the part of the path that is missing."""
    folder = path.parent
    if not folder.is_dir():
        return f"; there is no folder {folder}"
    try:
        names = os.listdir(folder)
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return f"; did you mean {folder / near[0]}?" if near else ""

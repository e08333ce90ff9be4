"""What the system says of the file system a folder is on: whether other machines see it, and whether they see its locks."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_REMOTE = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afs|9p|virtiofs|lustre|gpfs|beegfs\w*|ceph|ocfs2|gfs2|orangefs|pvfs2|panfs|fuse\.(?!fuseblk).*"
)
_HERE_ONLY = re.compile(r"(?:^|,)(?:nolock|localflock|local_lock=(?:all|flock|posix))(?:,|$)")
_NEVER_SHARED = re.compile(r"9p|virtiofs|afs|fuse\..*")
"""Kinds whose locks the machine keeps to itself, unless a server of theirs is asked, which is not told."""


@dataclass(frozen=True)
class FileSystem:
    """Where a folder is: `mount` point and `kind` as the system names them."""

    mount: str
    kind: str
    remote: bool
    """Other machines may have it too: no memory is shared through it."""
    locks_here_only: bool
    """Locks taken here are not seen by other machines that have it."""


def file_system(path: Path) -> FileSystem:
    """Return the file system of an existing folder; where the system does not tell (not Linux), a local one."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return FileSystem("/", "", remote=False, locks_here_only=False)
    return described(path.resolve(), mounts)


def described(path: Path, mounts: str) -> FileSystem:
    """Return what `mounts`, the text of /proc/self/mountinfo, says of an absolute path: the innermost mount, the last one
    where several lie on each other."""
    best = FileSystem("/", "", remote=False, locks_here_only=False)
    for line in mounts.splitlines():
        left, found, right = line.partition(" - ")
        words, rest = left.split(), right.split()
        if not found or len(words) < 5 or not rest:
            continue
        mount = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[4])
        if path.is_relative_to(mount) and len(mount) >= len(best.mount):
            kind, options = rest[0], rest[2] if len(rest) > 2 else ""
            remote = _REMOTE.fullmatch(kind) is not None
            here = remote and (bool(_HERE_ONLY.search(options)) or _NEVER_SHARED.fullmatch(kind) is not None)
            best = FileSystem(mount, kind, remote, here)
    return best


def room_at(path: Path) -> int | None:
    """Return the free bytes of the file system of `path` or of the nearest folder above that exists; None where it is
    not told."""
    for place in (path, *path.parents):
        try:
            facts = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return facts.f_bavail * facts.f_frsize
    return None

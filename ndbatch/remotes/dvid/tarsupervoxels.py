"""Meshes of supervoxels: one file each, and those of a body as a tar. Read only."""

from __future__ import annotations

import io
import tarfile

from ndbatch.errors import Corrupt
from ndbatch.remotes.dvid.service import Place

MISSING = ".missing"
"""Ending of the name under which a supervoxel without a file is listed in a tar."""


def supervoxel(place: Place, label: int) -> bytes:
    """Return the file of one supervoxel. NotFound where there is none."""
    return place.get(f"/supervoxel/{int(label)}").body


def of_body(place: Place, body: int) -> dict[int, bytes | None]:
    """Return the file of each supervoxel of a body, None where one has none. Corrupt for a tar that is none."""
    found: dict[int, bytes | None] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(place.get(f"/tarfile/{int(body)}").body)) as tar:
            for member in tar:
                name, _, ending = member.name.rpartition("/")[2].partition(".")
                file = tar.extractfile(member)
                found[int(name)] = None if f".{ending}" == MISSING or file is None else file.read()
    except (tarfile.TarError, ValueError) as error:
        raise Corrupt(
            f"{place.url}: the meshes of body {body} are no tar of supervoxels ({error})", url=place.url
        ) from None
    return found


def missing(place: Place, body: int) -> list[int]:
    """Return the supervoxels of a body that have no file."""
    return [int(n) for n in place.get(f"/missing/{int(body)}").json()]

"""Single planes as pictures: `/v1/image` by ranges, `/v1/tile` by the place of a tile. For thumbnails, never for computation."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from starlette.responses import Response

from ndbatch.remotes.base import Array
from ndbatch.server.boss.cutouts import QUALITY, read, region
from ndbatch.server.boss.errors import BAD_CUTOUT, BAD_URL, BossError
from ndbatch.server.calls import Call

if TYPE_CHECKING:
    from ndbatch.server.service import Service

PLANES = {"xy": "z", "xz": "y", "yz": "x"}
"""The axis along which each plane is one voxel thick."""
MIX = np.uint64(0x9E3779B97F4A7C15)
"""2**64 divided by the golden ratio: neighbouring ids get colours that lie far apart."""


def image(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer `GET /v1/image/C/E/H/{xy|xz|yz}/R/X/Y/Z[/t]`: two of X, Y, Z are ranges, the third one number."""
    if len(parts) not in (9, 10):
        raise BossError("an image is collection/experiment/channel/plane/resolution/x/y/z", BAD_URL)
    _, *names, plane, resolution, x, y, z = parts[:9]
    spans = _thin(plane, {"x": x, "y": y, "z": z})
    return _picture(service, call, names, resolution, plane, spans, parts[9:])


def tile(service: Service, call: Call, parts: Sequence[str]) -> Response:
    """Answer `GET /v1/tile/C/E/H/{xy|xz|yz}/SIZE/R/x/y/z[/t]`: in the plane tiles are counted, across it voxels."""
    if len(parts) not in (10, 11) or not all(re.fullmatch(r"\d{1,9}", part) for part in (parts[5], *parts[7:10])):
        raise BossError("a tile is collection/experiment/channel/plane/size/resolution/x/y/z", BAD_URL)
    _, *names, plane, edge, resolution, x, y, z = parts[:10]
    size, across = int(edge), PLANES.get(plane)
    places = {"x": int(x), "y": int(y), "z": int(z)}
    spans = {
        axis: str(place) if axis == across else f"{place * size}:{(place + 1) * size}" for axis, place in places.items()
    }
    return _picture(service, call, names, resolution, plane, _thin(plane, spans), parts[10:])


def _thin(plane: str, spans: dict[str, str]) -> dict[str, str]:
    """Return the ranges of a plane, one voxel long across it."""
    if plane not in PLANES:
        raise BossError(f"{plane} is no plane; it may be xy, xz or yz", BAD_URL)
    across = spans[PLANES[plane]]
    if not re.fullmatch(r"\d{1,15}", across):
        raise BossError(f"{PLANES[plane]} of a plane {plane} is one number, not {across}", BAD_CUTOUT)
    return {**spans, PLANES[plane]: f"{across}:{int(across) + 1}"}


def _picture(
    service: Service,
    call: Call,
    names: Sequence[str],
    resolution: str,
    plane: str,
    spans: dict[str, str],
    time: Sequence[str],
) -> Response:
    if call.method != "GET":
        raise BossError(f"{call.method} is not allowed on a picture", 2004, 405)
    times = [f"{time[0]}:{int(time[0]) + 1}"] if time and time[0].isdigit() else list(time)
    where = region(service, [*names, resolution, spans["x"], spans["y"], spans["z"], *times])
    data = read(service, where)
    flat = (data[0] if times else data).squeeze("zyx".index(PLANES[plane]))
    accept = call.headers.get("accept", "*/*")
    kind = "JPEG" if "image/jpeg" in accept and "image/png" not in accept else "PNG"
    return _encoded(flat, kind)


def _encoded(flat: Array, kind: str) -> Response:
    """Return a plane as a picture: uint8 as it is, uint16 divided by 256, ids as colours."""
    from PIL import Image

    if flat.dtype == np.uint16:
        flat = (flat >> 8).astype(np.uint8)
    elif flat.dtype == np.uint64:
        flat = _colours(flat)
    picture, plain = Image.fromarray(flat), io.BytesIO()
    options = {"quality": QUALITY} if kind == "JPEG" else {"compress_level": 1}
    (picture.convert("RGB") if kind == "JPEG" and picture.mode == "RGBA" else picture).save(plain, kind, **options)
    return Response(plain.getvalue(), media_type=f"image/{kind.lower()}")


def _colours(ids: Array) -> Array:
    """Return a colour, RGBA, for each id; 0 is transparent."""
    mixed = (ids.astype(np.uint64) * MIX) >> np.uint64(32)
    colours = np.stack([(mixed >> np.uint64(8 * place)).astype(np.uint8) for place in range(3)], axis=-1)
    alpha = np.where(ids == 0, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.concatenate([colours * (alpha[..., None] > 0), alpha[..., None]], axis=-1))

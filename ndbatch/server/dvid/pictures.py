"""Slices as pictures: PNG, JPEG, TIFF or BMP of an array of rows."""

from __future__ import annotations

import io

import numpy as np
from starlette.responses import Response

from ndbatch.errors import PlanError
from ndbatch.remotes.base import Array

FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF", "tiff": "TIFF", "bmp": "BMP"}
QUALITY = 80


def picture(rows: Array, wanted: tuple[str, ...]) -> Response:
    """Return rows of voxels as a picture of the format `wanted[0]`, such as `png` or `jpg:90`. PlanError."""
    from PIL import Image

    name, _, quality = wanted[0].partition(":")
    if name not in FORMATS:
        raise PlanError(f"{name!r} is no format of pictures; known: {', '.join(FORMATS)}")
    if rows.dtype != np.uint8 and not (rows.dtype == np.uint16 and FORMATS[name] in ("PNG", "TIFF")):
        raise PlanError(f"{rows.dtype} cannot be a {name}; ask for raw/0_1_2 instead")
    if max(rows.shape) > 65000:
        raise PlanError(f"a picture of {rows.shape[1]} x {rows.shape[0]} is too large")
    kept = io.BytesIO()
    options = {"quality": int(quality) if quality.isdigit() else QUALITY} if FORMATS[name] == "JPEG" else {}
    Image.fromarray(np.ascontiguousarray(rows)).save(kept, FORMATS[name], **options)
    return Response(kept.getvalue(), media_type=f"image/{FORMATS[name].lower()}")

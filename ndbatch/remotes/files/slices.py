"""Single slices: PNG and JPEG through Pillow, TIFF by its strips and tiles. One slice is an array (c?, y, x).

What Pillow would change in silence (16-bit colours, 2- and 4-bit greys, palettes) is read another way or refused. Slices
that can only be decoded as a whole are kept decoded for a while, as neighbouring blocks read them again.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import Corrupt, NdbatchError, RemoteError, missing_extra
from ndbatch.geometry import Box, Shape
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Array
from ndbatch.remotes.files.paths import file_error, file_version
from ndbatch.remotes.places.far import FilePath

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tif", ".tiff": "tif"}
"""Endings of slices, and what they are."""
KEPT_BYTES = 64 * 2**20
"""Decoded slices that a process keeps."""
MODES = {
    "1": ("bool", 1), "L": ("uint8", 1), "LA": ("uint8", 2), "RGB": ("uint8", 3), "RGBA": ("uint8", 4), "CMYK": ("uint8", 4),
    "I;16": ("uint16", 1), "I;16B": ("uint16", 1), "I;16L": ("uint16", 1), "I": ("int32", 1), "F": ("float32", 1),
}  # fmt: skip
"""Type and number of channels by Pillow's mode."""
PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""Channels by PNG's type of colour, https://www.w3.org/TR/png/#11IHDR; 3 is a palette."""
DIGITS = re.compile(r"(\d+)")

Head = tuple[Shape, "np.dtype[Any]"]


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts names as people count: `z9` before `z10`."""
    parts = DIGITS.split(name)
    return [(1, int(part), part) if i % 2 else (0, 0, part) for i, part in enumerate(parts)]


def missing_number(names: Sequence[str]) -> str:
    """Return the first name that is missing in a numbered row of names, or an empty string.

    Names must differ in one number alone, and most steps from one to the next must be the smallest one.
    """
    parts = [DIGITS.split(name) for name in names]
    if len(names) < 3 or len({len(part) for part in parts}) != 1:
        return ""
    varying = [i for i in range(len(parts[0])) if len({part[i] for part in parts}) > 1]
    if len(varying) != 1 or varying[0] % 2 == 0:
        return ""
    numbers = [int(part[varying[0]]) for part in parts]
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    step = min(steps)
    if max(steps) == step or steps.count(step) * 2 < len(steps):
        return ""
    at = next(i for i, found in enumerate(steps) if found != step)
    text = parts[at][varying[0]]
    return "".join([*parts[at][: varying[0]], f"{numbers[at] + step:0{len(text)}d}", *parts[at][varying[0] + 1 :]])


def read_head(path: FilePath) -> Head:
    """Return shape (c?, y, x) and type of a slice without decoding it.

    Raises Corrupt for what is damaged, RemoteError for what would be changed by reading, naming the file.
    """
    form = FORMATS[path.suffix.lower()]
    if form == "tif":
        return _tiff(path)[1]
    if form == "png":
        return _png_head(path)
    with _Pillow(path) as image:
        return _shape_of(image.size, image.mode, path)


def read_slice(path: FilePath, region: tuple[slice, ...], head: Head) -> Array:
    """Return the voxels of `region` (c?, y, x) of a slice, which must be as `head` says; of TIFF only the segments they are in.

    Raises Corrupt, NotFound, Denied, and RemoteError where the slice has another shape or type than the first.
    """
    if FORMATS[path.suffix.lower()] == "tif":
        volume, found = _tiff(path)
        require_like(path, found, head)
        data: Array = volume.read(Box(tuple(r.start for r in region), tuple(r.stop for r in region)))
        volume.close()
        return data
    data = _decoded.get(path)
    require_like(path, (data.shape, data.dtype), head)
    return data[region]


def require_like(path: FilePath, found: Head, head: Head) -> None:
    """Raise RemoteError where a slice differs from the first of its stack."""
    if found != head:
        raise RemoteError(
            f"{path} is {_described(found)}, the slices before it are {_described(head)}; a stack has slices of one size and "
            "type: take it away, or name those you mean by a glob",
            url=str(path),
        )


def encoded(data: Array, form: str, quality: int, compression: str) -> bytes:
    """Return the file of a slice (c?, y, x): PNG or JPEG of 1 or 3 channels, or TIFF. The same voxels give the same bytes."""
    file = io.BytesIO()
    if form == "tif":
        import tifffile

        packing = {} if compression == "none" else {"compression": compression}
        axes = "CYX" if data.ndim == 3 else "YX"
        tifffile.imwrite(
            file, data, photometric="minisblack", byteorder="<", metadata={"axes": axes}, software="ndbatch", **packing
        )
        return file.getvalue()
    from PIL import Image

    flat = np.moveaxis(data, 0, -1) if data.ndim == 3 and data.shape[0] > 1 else data.reshape(data.shape[-2:])
    image = Image.fromarray(np.ascontiguousarray(flat))
    image.save(file, "PNG", compress_level=2) if form == "png" else image.save(
        file, "JPEG", quality=quality, subsampling=0
    )
    return file.getvalue()


def write_file(path: Path, data: bytes, address: Address) -> None:
    """Write a file under a temporary name and rename it. Raises Denied, and RemoteError for a full disk."""
    aside = path.with_name(f".{path.name}.new")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise file_error(error, address) from None


class _Decoded:
    """The slices that were decoded last, up to a number of bytes; a replaced file is decoded again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], Array] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: FilePath) -> Array:
        """Return a slice (c?, y, x), not to be written into."""
        key = (str(path), file_version(path, Address("images", str(path))))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        data = _decode(path)
        with self._lock:
            self._kept[key] = data
            while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return data


_decoded = _Decoded()


def _decode(path: FilePath) -> Array:
    shape, dtype = read_head(path)
    if dtype == np.uint16 and len(shape) == 3:
        data = _colours_of_16_bits(path)
    else:
        with _Pillow(path) as image:
            # The bytes of Pillow's bits are 255, which is no numpy bool.
            data = np.asarray(image.convert("L")) > 0 if image.mode == "1" else np.asarray(image)
            # Pillow needs no end, which a whole file has.
            if image.format == "PNG" and b"IEND" not in path.read_bytes():
                raise Corrupt(f"{path} is damaged: its end is missing; copy it again", url=str(path))
    data = np.moveaxis(data, -1, 0) if data.ndim == 3 else data
    return np.ascontiguousarray(data, dtype=dtype)


def _colours_of_16_bits(path: FilePath) -> Array:
    try:
        import imagecodecs
    except ImportError:
        raise missing_extra("imagecodecs", "tiff", f"{path}: colours of 16 bits in PNG") from None
    try:
        return np.asarray(imagecodecs.png_decode(path.read_bytes()))
    except OSError as error:
        raise file_error(error, Address("images", str(path))) from None
    except Exception as error:  # the codec raises a class of its own
        raise Corrupt(f"{path} is damaged: {error}", url=str(path)) from None


class _Pillow:
    """Open a file by Pillow; what Pillow trips over while it is open is Corrupt."""

    def __init__(self, path: FilePath) -> None:
        self._path = path

    def __enter__(self) -> Any:
        from PIL import Image

        try:
            self._image = Image.open(
                self._path if isinstance(self._path, Path) else io.BufferedReader(self._path.open())
            )
            return self._image
        except NdbatchError:
            raise
        except Exception as error:
            raise self._told(error) from None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._image.close()
        if isinstance(error, Exception) and not isinstance(error, NdbatchError):
            raise self._told(error) from None

    def _told(self, error: Exception) -> RemoteError:
        if isinstance(error, OSError) and error.errno is not None:
            return file_error(error, Address("images", str(self._path)))
        return Corrupt(f"{self._path} is damaged or not an image ({error}); copy it again", url=str(self._path))


def _png_head(path: FilePath) -> Head:
    """Return shape and type of a PNG from its first chunk."""
    try:
        with path.open("rb") as file:
            start = file.read(26)
    except OSError as error:
        raise file_error(error, Address("images", str(path))) from None
    if len(start) < 26 or start[:8] != b"\x89PNG\r\n\x1a\n" or start[12:16] != b"IHDR":
        raise Corrupt(f"{path} is damaged or not a PNG image; copy it again", url=str(path))
    width, height, depth, colour = struct.unpack(">IIBB", start[16:26])
    if colour == 3:
        raise RemoteError(f"{path} is an image of palette colours; save it as grey or as RGB", url=str(path))
    if depth in (2, 4):
        raise RemoteError(f"{path} has {depth} bits a voxel; save it with 8 bits", url=str(path))
    channels = PNG_CHANNELS[colour]
    shape = (height, width) if channels == 1 else (channels, height, width)
    return shape, np.dtype({1: "bool", 8: "uint8", 16: "uint16"}[depth])


def _shape_of(size: tuple[int, int], mode: str, path: FilePath) -> Head:
    if mode not in MODES:
        raise RemoteError(f"{path} has colours of the kind {mode}; save it as grey or as RGB", url=str(path))
    dtype, channels = MODES[mode]
    width, height = size
    return ((height, width) if channels == 1 else (channels, height, width)), np.dtype(dtype)


def _tiff(path: FilePath) -> tuple[Any, Head]:
    """Open a TIFF slice by the TIFF store; its shape and type. RemoteError for a file of several pages."""
    from ndbatch.remotes.tiff.volume import TiffVolume

    found = Address("tiff", str(path)) if isinstance(path, Path) else path.address_as("tiff")
    volume = TiffVolume.open(found)
    if volume.axes not in ("yx", "cyx"):
        volume.close()
        raise RemoteError(
            f"{path} holds several pages ({', '.join(volume.axes)}), not one slice; open the file by itself",
            url=str(path),
        )
    return volume, (volume.shape, volume.dtype)


def _described(head: Head) -> str:
    shape, dtype = head
    channels = f" in {shape[0]} channels" if len(shape) == 3 else ""
    return f"{shape[-2]} x {shape[-1]} {dtype}{channels}"

"""Voxels on the wire of ndstore. Every array has a leading axis of channels, then t where the address names times, then z, y, x.

npz is a zlib stream of a .npy file (no zip archive); raw is the bytes alone, C-order, little-endian; zip is raw as a zlib stream;
blosc is a Blosc frame of a pickled array, which is read by an unpickler that knows nothing but numpy arrays; hdf5 is a file
with a group for each channel: CUTOUT, CHANNELTYPE, DATATYPE.
"""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ndbatch.errors import Corrupt, missing_extra
from ndbatch.geometry import Shape
from ndbatch.remotes.base import Array

HEAD = 2**16
"""Bytes that a .npy file, or a pickle, may have beside its voxels."""
ARRAYS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}
"""All that a pickled array names; whatever else a pickle asks for is refused."""


def pack_npz(data: Array, level: int = 1) -> bytes:
    """Return `data` as npz, compressed at a `level` of zlib; 0 stores it as it is."""
    plain = io.BytesIO()
    np.save(plain, np.ascontiguousarray(data), allow_pickle=False)
    return zlib.compress(plain.getbuffer(), level)


def unpack_npz(body: bytes, largest: int, where: str) -> Array:
    """Return the array of npz, native byte order. Corrupt for anything else, and for more than `largest` bytes of voxels."""
    plain = inflated(body, largest + HEAD, where)
    try:
        data = np.load(io.BytesIO(plain), allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError, OverflowError, MemoryError) as error:
        raise Corrupt(f"{where}: no .npy file ({error})", url=where) from None
    return _native(data, largest, where)


def pack_zip(data: Array) -> bytes:
    """Return the bytes of `data` as a zlib stream."""
    return zlib.compress(pack_raw(data), 1)


def pack_raw(data: Array) -> bytes:
    """Return the bytes of `data`, C-order, little-endian."""
    return np.ascontiguousarray(data, data.dtype.newbyteorder("<")).tobytes()


def unpack_raw(body: bytes, shape: Shape, dtype: np.dtype[Any], where: str) -> Array:
    """Return an array of known `shape` and `dtype`. Corrupt where there are more or fewer bytes."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(body) != size:
        raise Corrupt(f"{where}: {len(body)} bytes where {dtype} {shape} has {size}", url=where)
    return np.frombuffer(body, dtype.newbyteorder("<")).reshape(shape).astype(dtype.newbyteorder("="))


def pack_blosc(data: Array) -> bytes:
    """Return `data` as the package blosc packs arrays: a pickle of protocol 2, which every reader takes, in a Blosc frame."""
    blosc = _blosc()
    packed: bytes = blosc.compress(pickle.dumps(np.ascontiguousarray(data), 2), b"lz4", 5, blosc.SHUFFLE)
    return packed


def unpack_blosc(body: bytes, largest: int, where: str) -> Array:
    """Return the array of a blosc body. Corrupt for anything else, and for pickles of anything but plain arrays."""
    if len(body) < 16 or int.from_bytes(body[12:16], "little") != len(body):
        raise Corrupt(f"{where}: no whole Blosc frame", url=where)
    if int.from_bytes(body[4:8], "little") > 2 * largest + HEAD:  # protocol 2 of pickle writes bytes as text
        raise Corrupt(f"{where}: more than {largest} bytes of voxels", url=where)
    try:
        plain = _blosc().decompress(body)
        data = _Arrays(io.BytesIO(plain), encoding="latin1").load()
    except (
        pickle.UnpicklingError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        AttributeError,
        IndexError,
        ImportError,
        OverflowError,
        MemoryError,
    ) as error:
        raise Corrupt(f"{where}: no packed array ({error})", url=where) from None
    return _native(data, largest, where)


class _Arrays(pickle.Unpickler):
    """An unpickler of numpy arrays and of nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the names that arrays are made of."""
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"{module}.{name} is not taken")
        return super().find_class(module, name)


def pack_hdf5(channels: Mapping[str, tuple[Array, str]]) -> bytes:
    """Return an HDF5 file: arrays (t?, z, y, x) and channel types by channel."""
    h5py = _h5py()
    plain = io.BytesIO()
    with h5py.File(plain, "w") as file:
        for name, (data, kind) in channels.items():
            group = file.create_group(name)
            group.create_dataset("CUTOUT", data=data, compression="gzip", compression_opts=1)
            text = h5py.string_dtype()
            group.create_dataset("CHANNELTYPE", (1,), dtype=text, data=kind)
            group.create_dataset("DATATYPE", (1,), dtype=text, data=data.dtype.name)
    return plain.getvalue()


def unpack_hdf5(body: bytes, largest: int, where: str) -> dict[str, Array]:
    """Return the CUTOUT of every group of an HDF5 file, by channel. Corrupt for anything else."""
    h5py = _h5py()
    try:
        with h5py.File(io.BytesIO(body), "r") as file:
            sets = {str(name): group["CUTOUT"] for name, group in file.items() if "CUTOUT" in group}
            if sum(one.nbytes for one in sets.values()) > largest:
                raise Corrupt(f"{where}: more than {largest} bytes of voxels", url=where)
            return {name: _native(one[()], largest, where) for name, one in sets.items()}
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise Corrupt(f"{where}: no HDF5 file of cutouts ({error})", url=where) from None


def inflated(body: bytes, most: int, where: str) -> bytes:
    """Return a zlib stream unpacked. Corrupt where it is none, is cut off, or holds more than `most` bytes."""
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(body, most)
    except zlib.error as error:
        raise Corrupt(f"{where}: no zlib stream ({error})", url=where) from None
    if not stream.eof or stream.unused_data:
        raise Corrupt(f"{where}: cut off, or more than {most} bytes", url=where)
    return plain


def _native(data: Any, largest: int, where: str) -> Array:
    if not isinstance(data, np.ndarray) or data.dtype.kind not in "buif" or data.nbytes > largest:
        came = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else "no array"
        raise Corrupt(f"{where}: {came} came, and not an array of numbers of at most {largest} bytes", url=where)
    return np.ascontiguousarray(data, data.dtype.newbyteorder("="))


def _blosc() -> Any:
    try:
        from numcodecs import blosc
    except ImportError:
        raise missing_extra("numcodecs", "services", "blosc bodies of ndstore") from None
    return blosc


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise missing_extra("h5py", "hdf5", "HDF5 bodies of ndstore") from None
    return h5py

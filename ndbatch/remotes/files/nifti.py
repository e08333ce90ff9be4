"""NIfTI-1 and NIfTI-2 in one file, `.nii` or `.nii.gz`, through nibabel: https://nifti.nimh.nih.gov.

The axes i, j, k of the file are x, y, z, as they are stored; the fourth is t, the fifth c, the parts of a colour c too.
Nothing is turned to an anatomical orientation: the matrices that do so (qform, sform, millimetres as a rule) are
attributes. Voxel sizes need the file's unit. A new file keeps kind, axes and offset in a comment extension.
"""

from __future__ import annotations

import gzip
import io
import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ndbatch.errors import Corrupt, PlanError, RemoteError, missing_extra
from ndbatch.remotes.abilities import FAR, Abilities
from ndbatch.remotes.address import Address
from ndbatch.remotes.axes import AxisOrder
from ndbatch.remotes.base import ArraySpec, Kind
from ndbatch.remotes.files.flat import Flat
from ndbatch.remotes.files.flat_volume import FlatVolume, Header
from ndbatch.remotes.files.inflating import Stream
from ndbatch.remotes.files.paths import file_version
from ndbatch.units import MICROMETRES

if TYPE_CHECKING:
    from ndbatch.remotes.places.far import FilePath

DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")
STORED = "ctzyx"
"""The axes of a file, slowest first."""
COMMENT = 6
"""The code of an extension that holds plain text."""
OWN = "ndbatch"
LONGEST = 32767
"""Voxels along an axis, beyond which a new file is NIfTI-2."""


class NiftiVolume(FlatVolume):
    """The array of a NIfTI file; its values where the file scales them (`scl_slope`, `scl_inter`)."""

    scheme = "nifti"
    abilities: ClassVar[Abilities] = Abilities(
        concurrent=False,
        read_places=FAR,
        attributes=False,
        dtypes=DTYPES,
        title="NIfTI",
        examples=("image.nii", "image.nii.gz"),
        extra="formats",
    )

    @classmethod
    def check_spec(cls, address: Address, spec: ArraySpec) -> None:
        """Refuse volumes without the axes y and x, beside what no file can hold."""
        super().check_spec(address, spec)
        if not spec.axes.endswith("yx"):
            raise PlanError(f"{address.url}: a NIfTI volume needs the axes y and x, not only {', '.join(spec.axes)}")

    @classmethod
    def _describe(cls, path: FilePath, address: Address) -> Header:
        packed = _is_gzip(path)
        with path.open("rb") as raw, gzip.open(raw) if packed else nullcontext(raw) as file:
            head = _read_head(file, path)
        voxels, names = np.dtype(head.get_data_dtype()), STORED
        shape = tuple(int(n) for n in reversed(head.get_data_shape()))
        if voxels.names in (("R", "G", "B"), ("R", "G", "B", "A")):
            voxels, names, shape = np.dtype("uint8"), "tzyx", (*shape, len(voxels.names or ()))
            names = f"{names[-(len(shape) - 1) :]}c"
        if voxels.kind not in "iuf" or voxels.itemsize > 8:
            raise RemoteError(f"{path} holds {voxels}, which is no type of voxel that ndbatch reads", url=address.url)
        own = _own(head)
        if own.get("axes") and not voxels.names and len(own["axes"]) <= len(STORED):
            names = "".join(axis for axis in STORED if axis in own["axes"])
            shape = tuple(n for axis, n in zip(STORED[-len(shape) :], shape, strict=True) if axis in own["axes"])
        stream = Stream(path, file_version(path, address), 0, path.stat().st_size) if packed else None
        return Header(
            flat=Flat(path, int(head.get_data_offset()), shape, voxels, stream),
            names=names[-len(shape) :],
            sizes=_sizes(head),
            offset=dict(zip(own.get("axes", ""), own.get("offset", ()), strict=False)),
            kind=Kind(own["kind"]) if own.get("kind") in set(Kind) else Kind.IMAGE,
            attributes={"nifti": _facts(head)},
            scale=_scale(head),
        )

    @classmethod
    def _preamble(cls, address: Address, spec: ArraySpec) -> tuple[bytes, AxisOrder, np.dtype[Any]]:
        nibabel = _nibabel()
        extents = dict(zip(spec.axes, spec.shape, strict=True))
        largest = next(n for n, axis in zip(range(5, 0, -1), STORED, strict=True) if axis in extents)
        shape = [extents.get(axis, 1) for axis in "xyztc"[:largest]]
        head = nibabel.Nifti1Header() if max(shape) <= LONGEST else nibabel.Nifti2Header()
        head.set_data_dtype(spec.dtype.newbyteorder("<"))
        head.set_data_shape(shape)
        if spec.voxel_size is not None:
            known, origin = (
                dict(zip(spec.axes, spec.voxel_size, strict=True)),
                dict(zip(spec.axes, spec.offset, strict=True)),
            )
            sizes = [known.get(axis, 1.0) * 1e-3 for axis in "xyz"]
            affine = np.diag([*sizes, 1.0])
            affine[:3, 3] = [size * origin.get(axis, 0) for axis, size in zip("xyz", sizes, strict=True)]
            head.set_zooms([*sizes, 1.0, 1.0][: len(shape)])
            head.set_qform(affine, code=1)
            head.set_sform(affine, code=1)
            head.set_xyzt_units("mm")
        own = {"axes": spec.axes, "kind": str(spec.kind), "offset": list(spec.offset)}
        text = json.dumps({OWN: own}, sort_keys=True)
        head.extensions.append(nibabel.nifti1.Nifti1Extension(COMMENT, text.encode()))
        file = io.BytesIO()
        head.write_to(file)
        start = int(head.get_data_offset())
        order = AxisOrder("".join(axis for axis in STORED if axis in spec.axes))
        return file.getvalue().ljust(start, b"\0"), order, spec.dtype.newbyteorder("<")


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError:
        raise missing_extra("nibabel", "formats", "reading and writing NIfTI") from None
    return nibabel


def _is_gzip(path: FilePath) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _read_head(file: Any, path: FilePath) -> Any:
    """Return nibabel's header with its extensions. Corrupt for what is no NIfTI, RemoteError for a pair of files."""
    nibabel = _nibabel()
    start = file.read(348)
    size = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    if not size & {348, 540} or len(start) < 348:
        raise Corrupt(f"{path} is not a NIfTI file", url=str(path))
    magic = start[344:348] if 348 in size else start[4:8]
    if magic[:3] in (b"ni1", b"ni2") or (348 in size and magic[:3] != b"n+1"):
        raise RemoteError(
            f"{path} is one of two files (.hdr and .img, or Analyze); save it as a single .nii file", url=str(path)
        )
    file.seek(0)
    kind = nibabel.Nifti1Header if 348 in size else nibabel.Nifti2Header
    return kind.from_fileobj(file)


def _own(head: Any) -> dict[str, Any]:
    """Return ndbatch's own document among the extensions, or an empty one."""
    for extension in head.extensions:
        try:
            content = extension.get_content()
            document = json.loads(content)[OWN] if extension.get_code() == COMMENT else None
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(document, dict):
            return document
    return {}


def _sizes(head: Any) -> dict[str, float]:
    """Return the voxel size in micrometres by axis name; empty where the file tells no unit."""
    from nibabel.affines import voxel_sizes

    unit = MICROMETRES.get(str(head.get_xyzt_units()[0]))
    sizes = voxel_sizes(head.get_best_affine())
    if unit is None or not np.all(np.isfinite(sizes)) or np.any(sizes <= 0):
        return {}
    return {axis: round(float(size) * unit, 9) for axis, size in zip("xyz", sizes, strict=True)}


def _scale(head: Any) -> tuple[float, float] | None:
    slope, intercept = head.get_slope_inter()
    return None if slope is None or (slope, intercept or 0.0) == (1.0, 0.0) else (float(slope), float(intercept or 0.0))


def _facts(head: Any) -> dict[str, Any]:
    """Return the matrices from voxel (i, j, k) to place, the codes of what they mean, and the file's description."""
    facts: dict[str, Any] = {"units": str(head.get_xyzt_units()[0])}
    for name in ("qform", "sform"):
        matrix, code = getattr(head, f"get_{name}")(coded=True)
        if matrix is not None and code:
            facts[name] = {"code": int(code), "matrix": np.asarray(matrix, "float64").tolist()}
    described = bytes(head["descrip"].item()).rstrip(b"\0").decode("utf-8", "replace")
    return {**facts, "description": described} if described else facts

"""MRC2014 files of electron microscopy, `.mrc`, `.map`, `.rec`, `.st`, through mrcfile: https://www.ccpem.ac.uk/mrc_format.

Columns, rows and sections are x, y, z; a stack of volumes has t besides. The voxel size is the cell's, in Angstrom, or none
where the cell is empty. NXSTART, NYSTART and NZSTART are the offset. A label keeps the kind of a new volume. Bytes are
signed, as the standard says, unless IMOD's flag says otherwise.
"""

from __future__ import annotations

import gzip
import io
import warnings
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

if TYPE_CHECKING:
    from ndbatch.remotes.places.far import FilePath

MODES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}
"""Types of voxels by the word MODE."""
HEAD = 1024
"""Bytes of the head."""
EXTENDED = 64 * 2**20
"""Bytes of the longest extended head that is looked at."""
ANGSTROM = 1e-4
"""Micrometres of one."""
VOLUMES = range(401, 631)
"""Space groups of stacks of volumes."""
IMOD = 1146047817
"""The stamp of files by IMOD, which keep flags beside it: bit 0 says that bytes are signed."""
LABEL = "ndbatch kind="
START_AXES = (("nxstart", "x"), ("nystart", "y"), ("nzstart", "z"))


class MrcVolume(FlatVolume):
    """The image, stack or volume of an MRC file."""

    scheme = "mrc"
    abilities: ClassVar[Abilities] = Abilities(
        concurrent=False,
        read_places=FAR,
        attributes=False,
        dtypes=tuple(MODES.values()),
        title="MRC",
        examples=("image.mrc", "image.mrc.gz"),
        extra="formats",
    )

    @classmethod
    def check_spec(cls, address: Address, spec: ArraySpec) -> None:
        """Refuse channels, a time that does not begin at 0, and volumes without the axes y and x."""
        super().check_spec(address, spec)
        if spec.axes not in ("yx", "zyx", "tzyx"):
            raise PlanError(
                f"{address.url}: an MRC volume has the axes z, y, x, or t besides, not {', '.join(spec.axes)}"
            )
        if spec.axes[0] == "t" and spec.offset[0]:
            raise PlanError(f"{address.url}: times of an MRC volume begin at 0, not at {spec.offset[0]}")

    @classmethod
    def _describe(cls, path: FilePath, address: Address) -> Header:
        head = _head(path)
        mode = int(head["mode"])
        if mode not in MODES:
            raise RemoteError(
                f"{path} holds MRC mode {mode}, which is no type of voxel that ndbatch reads", url=address.url
            )
        voxels = np.dtype("uint8" if mode == 0 and _unsigned(head) else MODES[mode])
        order = head.dtype["nx"].byteorder
        nx, ny, nz = (int(head[name]) for name in ("nx", "ny", "nz"))
        if min(nx, ny, nz) < 1:
            raise Corrupt(f"{path} is damaged: its head tells {nx} x {ny} x {nz} voxels", url=address.url)
        names, shape, kind = _layout(head, (nz, ny, nx))
        packed = _packed(path)
        stream = Stream(path, file_version(path, address), 0, path.stat().st_size) if packed else None
        return Header(
            flat=Flat(path, HEAD + int(head["nsymbt"]), shape, voxels.newbyteorder(order), stream),
            names=names,
            sizes=_sizes(head),
            offset={axis: int(head[name]) for name, axis in START_AXES},
            kind=kind,
            attributes={"mrc": _facts(head)},
        )

    @classmethod
    def _preamble(cls, address: Address, spec: ArraySpec) -> tuple[bytes, AxisOrder, np.dtype[Any]]:
        from mrcfile.dtypes import HEADER_DTYPE

        _mrcfile()
        head = np.zeros((), HEADER_DTYPE)
        extents = dict(zip(spec.axes, spec.shape, strict=True))
        origin = dict(zip(spec.axes, spec.offset, strict=True))
        depth = extents.get("z", 1)
        head["nx"], head["ny"], head["nz"] = extents["x"], extents["y"], depth * extents.get("t", 1)
        head["mx"], head["my"], head["mz"] = extents["x"], extents["y"], depth
        head["mode"] = next(mode for mode, name in MODES.items() if name == spec.dtype.name)
        head["mapc"], head["mapr"], head["maps"] = 1, 2, 3
        for name, axis in START_AXES:
            head[name] = origin.get(axis, 0)
        if spec.voxel_size is not None:
            size = dict(zip(spec.axes, spec.voxel_size, strict=True))
            head["cella"] = tuple(size.get(axis, 0.0) / ANGSTROM * extents.get(axis, 1) for axis in "xyz")
        head["cellb"] = (90.0, 90.0, 90.0)
        head["ispg"] = VOLUMES.start if "t" in extents else 1 if "z" in extents else 0
        head["dmin"], head["dmax"], head["dmean"], head["rms"] = 0, -1, -2, -1  # says that they were not computed
        head["map"], head["nversion"], head["machst"] = b"MAP ", 20141, (0x44, 0x44, 0, 0)
        head["nlabl"] = 1
        head["label"][0] = f"{LABEL}{spec.kind}".encode()
        return head.tobytes(), AxisOrder(spec.axes), spec.dtype.newbyteorder("<")


def _mrcfile() -> Any:
    try:
        import mrcfile
    except ImportError:
        raise missing_extra("mrcfile", "formats", "reading and writing MRC") from None
    return mrcfile


def _packed(path: FilePath) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _head(path: FilePath) -> Any:
    """Return the head as mrcfile reads it: a record with the file's byte order. Corrupt for what is no MRC file."""
    _mrcfile()
    from mrcfile.mrcinterpreter import MrcInterpreter

    with path.open("rb") as raw, gzip.open(raw) if _packed(path) else nullcontext(raw) as file:
        start = file.read(HEAD)
        start += file.read(_extended(start))

    def read(permissive: bool) -> Any:
        with io.BytesIO(start) as copied:  # closed first, as mrcfile writes to what is open when it goes
            return MrcInterpreter(copied, permissive, header_only=True).header.copy()

    with warnings.catch_warnings():  # permissive reading warns of what is refused here anyway
        warnings.simplefilter("ignore")
        try:
            return read(permissive=False)
        except ValueError as error:
            # Files from before 2000 have no word MAP; their sizes and mode still tell what they are.
            head = read(permissive=True) if len(start) >= HEAD else None
            if (
                head is None
                or int(head["mode"]) not in MODES
                or not {int(head[n]) for n in ("mapc", "mapr", "maps")} <= {0, 1, 2, 3}
            ):
                raise Corrupt(f"{path} is not an MRC file ({error})", url=str(path)) from None
            return head


def _extended(start: bytes) -> int:
    """Return how many bytes to read after the head: the word NSYMBT, in the byte order that makes the more of it."""
    counts = [int.from_bytes(start[92:96], order, signed=True) for order in ("little", "big")]
    return max((count for count in counts if 0 <= count <= EXTENDED), default=0)


def _unsigned(head: Any) -> bool:
    """Return whether bytes are unsigned: files of IMOD with the flag for signed ones not set."""
    stamp, flags = np.frombuffer(bytes(head["extra2"])[40:48].ljust(8, b"\0"), head.dtype["nx"])
    return bool(stamp == IMOD and not flags & 1)


def _layout(head: Any, shape: tuple[int, int, int]) -> tuple[str, tuple[int, ...], Kind]:
    """Return the names of the axes, slowest first, the shape, and what the voxels mean."""
    labels = [bytes(label).decode("ascii", "replace") for label in head["label"][: max(0, min(10, int(head["nlabl"])))]]
    words = [label.removeprefix(LABEL).strip("\0 ") for label in labels if label.startswith(LABEL)]
    kind = Kind(words[0]) if words and words[0] in set(Kind) else Kind.IMAGE
    order = "".join("xyz"[n - 1] for n in (int(head[name]) for name in ("maps", "mapr", "mapc")) if 1 <= n <= 3)
    names = order if sorted(order) == ["x", "y", "z"] else "zyx"
    deep = int(head["mz"])
    if int(head["ispg"]) in VOLUMES and 0 < deep <= shape[0] and shape[0] % deep == 0:
        return f"t{names}", (shape[0] // deep, deep, *shape[1:]), kind
    if shape[0] == 1 and words and int(head["ispg"]) == 0:
        return names[1:], shape[1:], kind
    return names, shape, kind


def _sizes(head: Any) -> dict[str, float]:
    """Return the voxel size in micrometres by axis name: the cell's edges by its intervals."""
    sizes = {}
    for axis in "xyz":
        edge, count = float(head["cella"][axis]), int(head[f"m{axis}"])
        if edge > 0 and count > 0 and np.isfinite(edge):
            sizes[axis] = round(edge / count * ANGSTROM, 12)
    return sizes


def _facts(head: Any) -> dict[str, Any]:
    """Return what else the head tells: origin in Angstrom, space group, labels."""
    labels = [bytes(label).decode("ascii", "replace").strip("\0 ") for label in head["label"]]
    return {
        "origin": [float(head["origin"][axis]) for axis in "xyz"],
        "space_group": int(head["ispg"]),
        "extended_header": bytes(head["exttyp"]).decode("ascii", "replace").strip("\0 "),
        "labels": [label for label in labels if label],
    }

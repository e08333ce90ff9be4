"""One request to a data instance, what its words stand for, and how DVID answers what is wrong.

Nearly every failure is 400 with a text; 404 only where a client may ask whether something is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from ndbatch.errors import Denied, NdbatchError, NoRoom, NotFound, PlanError, RemoteError
from ndbatch.geometry import Box, Shape
from ndbatch.server.calls import Call, TooLarge, plain

if TYPE_CHECKING:
    from ndbatch.server.dvid.instance import Instance
    from ndbatch.server.dvid.repository import Repository
    from ndbatch.server.service import Service

REQUEST_BYTES = 3 * 2**30
"""Most bytes of voxels, not compressed, that one request may be about."""
POINT = re.compile(r"-?\d{1,10}(_-?\d{1,10}){2}")


class Absent(NotFound):
    """What is asked for is not there, and the caller may well have asked whether it is: 404."""


class Refused(Denied):
    """DVID would not do it to anyone: 400, whoever asks."""


class Busy(RemoteError):
    """Too much is being done already: 503, and the caller comes back later."""


@dataclass(frozen=True)
class Ask:
    """A request to the data `instance` at the version `uuid` of `repo`; `parts` are the names that follow the keyword."""

    service: Service
    repo: Repository
    uuid: str
    instance: Instance
    call: Call
    parts: tuple[str, ...] = ()

    def part(self, index: int, what: str) -> str:
        """Return one name of the path. PlanError where it is missing."""
        if index >= len(self.parts):
            raise PlanError(f"the path needs {what} as its part {index + 1} after the keyword")
        return self.parts[index]

    def flag(self, name: str) -> bool:
        """Return whether an option is set to true or on."""
        return self.call.query.get(name, "").lower() in ("true", "on", "1")

    def number(self, name: str, default: int = 0) -> int:
        """Return an option as a whole number. PlanError where it is none."""
        return whole(self.call.query.get(name, str(default)), name)

    def json(self, kind: type = dict) -> Any:
        """Return the body, which must be JSON of a `kind`. PlanError where it is not."""
        found = self.call.json()
        if not isinstance(found, kind):
            raise PlanError(f"the body is JSON, but no {kind.__name__}")
        return found

    def box(self, size: int = 1, itemsize: int = 8) -> Box:
        """Return the box whose size and offset are the parts `size` and the next. PlanError for nonsense, TooLarge."""
        extent, start = point(self.part(size, "a size")), point(self.part(size + 1, "an offset"))
        if any(n < 1 for n in extent):
            raise PlanError(f"a size of {extent[::-1]} voxels holds none")
        found = Box.of_shape(extent, start)
        if found.size * itemsize > REQUEST_BYTES:
            raise TooLarge(
                f"{found.size * itemsize} bytes of voxels were asked for; at most {REQUEST_BYTES} are given at once"
            )
        return found

    def aligned(self, size: int = 1, itemsize: int = 8) -> Box:
        """Return `box`, whose ends must be ends of blocks. PlanError."""
        box, block = self.box(size, itemsize), self.instance.block
        if box.aligned_to(block, (0, 0, 0)) != box:
            raise PlanError(
                f"size {box.shape[::-1]} and offset {box.start[::-1]} must be multiples of the block {block[::-1]}"
            )
        return box


Handle = Callable[[Ask], Response]
Table = dict[tuple[str, str], Handle]
"""What a type of instance does, by method and keyword."""


def point(text: str) -> Shape:
    """Return `x_y_z` as z, y, x. PlanError for anything else."""
    if not POINT.fullmatch(text):
        raise PlanError(f"{text!r} is not x_y_z")
    return tuple(int(n) for n in reversed(text.split("_")))


def triple(text: str) -> Shape:
    """Return `x,y,z` as z, y, x. PlanError for anything else."""
    return point(text.replace(" ", "").replace(",", "_"))


def whole(text: str, what: str) -> int:
    """Return a whole number from 0 up that fits 64 bits. PlanError for anything else."""
    if not (text.isascii() and text.isdigit() and int(text) < 2**64):
        raise PlanError(f"{what} {text!r} is not a whole number")
    return int(text)


def ids(values: Any) -> list[int]:
    """Return a JSON list of ids. PlanError where it is none."""
    if not isinstance(values, list) or any(
        isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < 2**64 for n in values
    ):
        raise PlanError("the body must be a JSON list of ids")
    return values


def answers(error: NdbatchError) -> Response:
    """Answer an error as a DVID does: 404 and 503 where they are meant, 403 without a token, else 400 in words."""
    codes: tuple[tuple[type[NdbatchError], int], ...] = (
        (Absent, 404),
        (Busy, 503),
        (Refused, 400),
        (Denied, 403),
        (NotFound, 400),
        (PlanError, 400),
        (TooLarge, 400),
        (NoRoom, 507),
    )
    return plain(error.message, next((code for kind, code in codes if isinstance(error, kind)), 500))


def octets(body: bytes) -> Response:
    """Return an answer of bytes."""
    return Response(body, media_type="application/octet-stream")


def document(value: Any) -> bytes:
    """Return JSON as it is kept."""
    return json.dumps(value).encode()

"""Errors as BOSS answers them: `{"status", "code", "message"}`; those of its web framework `{"detail"}`."""

from __future__ import annotations

from starlette.responses import Response

from ndbatch.errors import Conflict, Denied, NdbatchError, NoRoom, NotFound, PlanError, Transient
from ndbatch.server.calls import TooLarge, as_json


class BossError(NdbatchError):
    """An error with the code and the status that clients of BOSS look at."""

    def __init__(self, message: str, code: int = 1006, status: int = 400) -> None:
        super().__init__(message, code=code, status=status)


BAD_URL, BAD_CUTOUT, BAD_RESOLUTION, BAD_ARGUMENT, BAD_TYPE_OF_BOX = 1000, 1001, 1002, 1003, 1005
TOO_LARGE, UNDECODABLE, OTHER_SHAPE, NOT_LABELS, INVALID_STATE = 2000, 2001, 2002, 2003, 2006
DENIED, ABSENT, REFERENCED, NO_OBJECT, NO_GROUP, GROUP_EXISTS = 3004, 4000, 4003, 4004, 4001, 6001
NOT_STORED, UNHANDLED, VERSION = 9001, 9002, 9003

FAMILIES: tuple[tuple[type[NdbatchError], int, int], ...] = (
    (TooLarge, 413, TOO_LARGE),
    (Denied, 403, DENIED),
    (NotFound, 404, ABSENT),
    (Conflict, 400, BAD_ARGUMENT),
    (PlanError, 400, BAD_ARGUMENT),
    (Transient, 503, UNHANDLED),
    (NoRoom, 507, NOT_STORED),
)


def answers(error: NdbatchError) -> Response:
    """Answer an error of any family."""
    if isinstance(error, BossError):
        status, code = error.fields["status"], error.fields["code"]
    else:
        status, code = next(((s, c) for kind, s, c in FAMILIES if isinstance(error, kind)), (500, UNHANDLED))
    if status in (406, 415):  # the web framework's own
        return as_json({"detail": error.message}, status)
    return as_json({"status": status, "code": code, "message": error.message}, status)


def absent(what: str) -> BossError:
    """Return the error for a resource that is not there."""
    return BossError(f"{what} is not there", ABSENT, 404)


def bad(message: str) -> BossError:
    """Return the error for an argument that is wrong."""
    return BossError(message, BAD_ARGUMENT)

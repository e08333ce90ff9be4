"""One request as the protocols see it: names from the path, the query, a body of bounded size; and the answer.

Protocols write plain functions, `handle(call) -> Response`, which run in a pool of threads; waiting for the network is done
here. A protocol says itself how an error is answered (`Answers`), since old clients look at the exact code.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ndbatch.errors import Denied, NdbatchError, NoRoom, NotFound, PlanError
from ndbatch.remotes.http.digest import HEADER, WANTED, content_digest, intact

THREADS = 32
"""Requests that a process answers at once; others wait."""
LOG = logging.getLogger("ndbatch.server")


class TooLarge(NdbatchError):
    """A request or its answer would be larger than the service allows."""


@dataclass(frozen=True)
class Call:
    """One request. `body` is whole; `query` and `headers` (names in small letters) hold the last value of each name."""

    method: str
    path: str
    names: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """The body as JSON; PlanError where it is none."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise PlanError(f"the body is not JSON: {error}") from None

    @property
    def token(self) -> str:
        """What follows `Token` or `Bearer` in the header Authorization; empty where there is none."""
        scheme, _, value = self.headers.get("authorization", "").partition(" ")
        return value.strip() if scheme.lower() in ("token", "bearer") else ""


Handle = Callable[[Call], Response]
Answers = Callable[[NdbatchError], Response]
"""How a protocol answers an error."""


def endpoint(handle: Handle, answers: Answers, limit: int) -> Callable[[Request], Awaitable[Response]]:
    """Return `handle` as starlette calls it. Bodies above `limit` bytes are refused before they are read to the end.

    Bodies and answers carry digests where the client does its part (`ndbatch.remotes.http.digest`).
    """

    async def respond(request: Request) -> Response:
        try:
            call = Call(
                request.method,
                request.url.path,
                dict(request.path_params),
                dict(request.query_params),
                dict(request.headers),
                await _body(request, limit),
            )
            return await asyncio.get_running_loop().run_in_executor(_threads(), _checked, handle, call)
        except NdbatchError as error:
            return answers(error)
        except ClientDisconnect:
            return Response(status_code=499)
        except (OSError, sqlite3.Error) as error:
            if not _is_full(error):
                return _failed(request)
            return answers(
                NoRoom("the service has no room to keep this; free some space on its disk, then send it again")
            )
        except Exception:
            return _failed(request)

    return respond


@cache
def _threads() -> ThreadPoolExecutor:
    """Return the threads that answer. They stay: each keeps a connection to the catalogue, and memory of the allocator."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="ndbatch-answer")


def _failed(request: Request) -> Response:
    LOG.exception("%s %s", request.method, request.url.path)
    return Response("the service failed; its log says where", 500, media_type="text/plain")


def _is_full(error: OSError | sqlite3.Error) -> bool:
    """Return whether a file or a catalogue could not be written for want of room."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # Memory that a catalogue shares is a file too; it takes its room first.
    return getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)


def _checked(handle: Handle, call: Call) -> Response:
    """Check the digest of the body, and send the answer so that the client sees what is damaged on the way.

    A client that asks for a digest gets one. Others that take gzip get it stored, not deflated: next to no work, and every
    such client (curl, browsers, requests, tensorstore) checks the CRC-32 at its end, where raw voxels and blosc have none.
    """
    if not intact(call.body, call.headers.get(HEADER.lower(), "")):
        return Response("the body was damaged on the way; send it again", 503, {"Retry-After": "0"})
    response = handle(call)
    body = getattr(response, "body", None)  # answers that are streamed have none
    if not body:
        return response
    if WANTED.lower() in call.headers:
        response.headers[HEADER] = content_digest(body)
    elif "gzip" in call.headers.get("accept-encoding", "") and response.status_code == 200:
        if "content-encoding" in response.headers:
            return response
        response.body = gzip.compress(body, compresslevel=0, mtime=0)
        response.headers.update({"Content-Encoding": "gzip", "Content-Length": str(len(response.body))})
    response.headers.add_vary_header("Accept-Encoding")
    return response


async def _body(request: Request, limit: int) -> bytes:
    """Return the body of a request, TooLarge as soon as it is known to be longer than `limit` bytes."""
    parts, size = [], 0
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"the body has {declared} bytes; at most {limit} are taken")
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise TooLarge(f"the body is longer than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def plain(text: str, status: int = 200) -> Response:
    """Return an answer of plain text."""
    return Response(text, status, media_type="text/plain")


def as_json(value: Any, status: int = 200) -> Response:
    """Return an answer of JSON."""
    return Response(json.dumps(value), status, media_type="application/json")


def plainly(error: NdbatchError) -> Response:
    """Answer an error with the code that HTTP has for it, and its sentence."""
    codes: tuple[tuple[type[NdbatchError], int], ...] = (
        (TooLarge, 413),
        (Denied, 403),
        (NotFound, 404),
        (PlanError, 400),
        (NoRoom, 507),
    )
    return plain(error.message, next((code for kind, code in codes if isinstance(error, kind)), 500))

"""Answers that hold bytes of a file: entity tags, ranges, and whole bodies, by RFC 9110 (13 and 14)."""

from __future__ import annotations

import hashlib
import re
import zlib

from starlette.responses import Response

from ndbatch.errors import PlanError
from ndbatch.server.calls import Call, TooLarge

BYTES = "application/octet-stream"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def content(call: Call, body: bytes, media_type: str = BYTES) -> Response:
    """Return `body`, or the range of it that is asked for (206, 416), or 304 where the client has it already.

    One range is answered; of several the whole body is, as the standard allows. Clients keep answers and ask each time whether
    they are still right, since voxels change when somebody writes.
    """
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'  # processors have it built in: faster than blake2b
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Accept-Ranges": "bytes"}
    known = [one.strip().removeprefix("W/") for one in call.headers.get("if-none-match", "").split(",")]
    if tag in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    wanted = _RANGE.fullmatch(call.headers.get("range", "").strip())
    if wanted is None or wanted.groups() == ("", "") or call.headers.get("if-range", tag) != tag:
        return Response(body, 200, headers, media_type)
    first, last = wanted.groups()
    start = int(first) if first else max(0, len(body) - int(last))
    stop = min(int(last) + 1, len(body)) if first and last else len(body)
    if start >= stop:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{len(body)}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
    return Response(body[start:stop], 206, headers, media_type)


def sent(call: Call, limit: int) -> bytes:
    """Return the body of a request without the compression that its header tells of; TooLarge above `limit` bytes."""
    packing = call.headers.get("content-encoding", "").strip().lower()
    if packing in ("", "identity"):
        return call.body
    if packing != "gzip":
        raise PlanError(f"the body is packed with {packing}; send it as it is, or with gzip")
    return unzipped(call.body, limit)


def unzipped(data: bytes, limit: int) -> bytes:
    """Return the bytes of a gzip or zlib stream of at most `limit` bytes; TooLarge beyond, PlanError where it is damaged."""
    stream = zlib.decompressobj(wbits=47)  # both heads are known
    try:
        whole = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise PlanError(f"the body is no gzip stream: {error}") from None
    if len(whole) > limit:
        raise TooLarge(f"the body unpacks to more than {limit} bytes")
    if not stream.eof:
        raise PlanError("the gzip stream of the body ends too early; send it again")
    return whole

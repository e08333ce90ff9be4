"""What a bucket or a web server tells of one file without sending it: its size, and what changes when it is replaced.

tensorstore tells the tag of an object, but no size. S3 is asked through pyarrow, Google Cloud Storage by its JSON API, a web
server for the first byte of the file, which also says whether it sends parts and whether the file lies elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from ndbatch.errors import NotFound, RemoteError
from ndbatch.remotes.http.client import client
from ndbatch.remotes.http.reply import Reply, secrets_of, shown, without_secrets
from ndbatch.remotes.places.listing import escaped, file_system, google_page
from ndbatch.remotes.places.objects import Objects
from ndbatch.remotes.places.tensor import FAILURES, translated

WHOLE = 64 * 2**20
"""Bytes of the largest file that is read from a server that sends no parts of a file."""
TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")
MOVED = (301, 302, 303, 307, 308)
MOVES = 5
"""Times that a server may send on."""


@dataclass(frozen=True)
class Facts:
    """A file elsewhere: its bytes; a tag that changes when it is replaced, and whether it surely does (times in seconds do
    not); whether parts can be had; the URL that it has moved to."""

    size: int
    tag: str
    sure: bool = True
    parts: bool = True
    moved: str = ""


def facts(folder: Objects, name: str) -> Facts | None:
    """Return what the place tells of the file `name`; None where there is no such file.

    Raises Denied, Transient, NotFound for a missing bucket, RemoteError for a large file on a server that sends no parts.
    """
    spec = folder.spec()
    if spec["driver"] == "http":
        return _web(spec["base_url"] + escaped(f"{spec['path']}{name}"))
    size = _google(folder, name) if spec["driver"] == "gcs" else _amazon(folder, name)
    return None if size is None else Facts(size, folder.etag(name))


def _amazon(folder: Objects, name: str) -> int | None:
    from pyarrow.fs import FileType

    spec = folder.spec()
    try:
        found = file_system(spec, folder.address).get_file_info(f"{spec['bucket']}/{spec['path']}{name}")
    except FAILURES as error:
        raise translated(error, folder.address, name) from None
    return int(found.size) if found.type == FileType.File else None


def _google(folder: Objects, name: str) -> int | None:
    spec = folder.spec()
    key = f"{spec['path']}{name}"
    page = google_page(spec["bucket"], {"prefix": key, "maxResults": "1", "fields": "items(name,size)"}, folder.address)
    return next((int(item["size"]) for item in page.get("items", ()) if item["name"] == key), None)


def _web(url: str) -> Facts | None:
    """Return what a web server says with the first byte of a file."""
    moved = url
    for _ in range(MOVES + 1):
        parts = urlsplit(moved)
        asked = f"{parts.path}?{parts.query}" if parts.query else parts.path
        try:
            reply = client(f"{parts.scheme}://{parts.netloc}").get(
                asked,
                headers={"Range": "bytes=0-0", "Accept-Encoding": "identity"},
                expect=(200, 206, 416, *MOVED),
                limit=WHOLE,
            )
        except NotFound:
            return None
        except RemoteError as error:
            if "larger than" in error.message:
                raise RemoteError(
                    f"{shown(url)}: the server sends whole files only, and this one has more than {WHOLE // 2**20} MiB; copy it "
                    "here first",
                    url=shown(url),
                ) from None
            raise without_secrets(error, secrets_of(moved, {})) from None
        if reply.status not in MOVED:
            return _said(reply, "" if moved == url else moved)
        moved = urljoin(moved, reply.headers.get("location", ""))
    raise RemoteError(f"{shown(url)} sends on more than {MOVES} times; look at the address", url=shown(url))


def _said(reply: Reply, moved: str) -> Facts:
    etag = reply.headers.get("etag", "")
    tag, sure = etag or reply.headers.get("last-modified", ""), etag.startswith('"')
    if reply.status == 416:  # an empty file has no first byte
        return Facts(0, tag, sure, moved=moved)
    total = TOTAL.fullmatch(reply.headers.get("content-range", ""))
    if reply.status == 206 and total:
        return Facts(int(total[1]), tag, sure, moved=moved)
    return Facts(len(reply.body), tag, sure, parts=False, moved=moved)

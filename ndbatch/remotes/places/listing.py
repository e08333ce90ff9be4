"""What is directly below a folder of a bucket, a web server or a zip file.

tensorstore lists all keys below a prefix; a bucket with millions of chunks is listed here folder by folder with the
delimiter `/`: S3 through pyarrow, Google Cloud Storage by its JSON API (pyarrow 26 leaves out folders there that have no
object of their own; https://cloud.google.com/storage/docs/json_api/v1/objects/list). A web server is listed by the index
page that it gives, a zip file by its directory.
"""

from __future__ import annotations

import configparser
import json
import os
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlencode, urljoin, urlsplit
from urllib.request import Request, urlopen

from ndbatch.errors import Denied, RemoteError, Transient, missing_extra
from ndbatch.remotes.address import Address
from ndbatch.remotes.places.tensor import FAILURES, context, require_no_fork, translated
from ndbatch.remotes.places.unreachable import unreachable

TIMEOUT = 20
"""Seconds that a web server may take for an index page, and a service to connect."""


@dataclass(frozen=True)
class Entry:
    """A name directly below a folder; `size` in bytes and `time` in seconds since 1970 where the place tells, else 0."""

    name: str
    folder: bool
    size: int = 0
    time: float = 0.0


def entries(spec: dict[str, Any], address: Address) -> list[Entry]:
    """Return what is directly below the folder of the kvstore JSON `spec`, sorted; empty where it is not there.

    Raises Denied, Transient, NotFound for a missing bucket, RemoteError for a web server that gives no index.
    """
    driver = spec["driver"]
    if driver == "http":
        found = _index(spec["base_url"] + escaped(spec["path"]), address)
    elif driver == "zip":
        found = _zipped(spec, address)
    elif driver == "gcs":
        found = _google(spec["bucket"], spec["path"], address)
    else:
        found = _bucket(spec, address)
    return sorted(found, key=lambda entry: entry.name)


def _bucket(spec: dict[str, Any], address: Address) -> list[Entry]:
    from pyarrow.fs import FileSelector, FileType

    top = f"{spec['bucket']}/{spec['path']}".rstrip("/")
    try:
        found = file_system(spec, address).get_file_info(FileSelector(top))
    except FileNotFoundError:
        return []
    except FAILURES as error:
        raise translated(error, address, "the folder") from None
    times = [info.mtime.timestamp() if info.mtime is not None else 0.0 for info in found]
    return [
        Entry(info.base_name, info.type == FileType.Directory, info.size or 0, time)
        for info, time in zip(found, times, strict=True)
        if info.base_name
    ]


def file_system(spec: dict[str, Any], address: Address) -> Any:
    """Return the pyarrow file system of a bucket of S3, with the credentials that tensorstore uses."""
    kind = spec["aws_credentials"]
    return _amazon(
        spec["bucket"],
        spec.get("endpoint", ""),
        spec.get("aws_region", ""),
        kind["type"],
        kind.get("profile", ""),
        os.environ.get("AWS_ACCESS_KEY_ID", ""),
    )


@cache
def _amazon(bucket: str, endpoint: str, region: str, kind: str, profile: str, user: str) -> Any:
    """Return a file system for one set of credentials; `user` only parts the cache, keys are found anew."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    options: dict[str, Any] = {"endpoint_override": endpoint} if endpoint else {}
    if kind == "anonymous":
        options["anonymous"] = True
    elif kind == "profile":
        options |= _keys_of(profile or "default")
    return S3FileSystem(
        region=region or resolve_s3_region(bucket),
        connect_timeout=TIMEOUT,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=4),
        **options,
    )


def _keys_of(profile: str) -> dict[str, str]:
    """Return the keys of a profile in ~/.aws/credentials as pyarrow takes them; none where it has another kind of login."""
    path = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    file = configparser.ConfigParser(interpolation=None)
    file.read(path)
    names = {
        "access_key": "aws_access_key_id",
        "secret_key": "aws_secret_access_key",
        "session_token": "aws_session_token",
    }
    if not file.has_option(profile, "aws_access_key_id"):
        return {}
    return {name: file.get(profile, key) for name, key in names.items() if file.has_option(profile, key)}


def _google(bucket: str, prefix: str, address: Address) -> list[Entry]:
    """Return what is below a prefix, a thousand names a request."""
    found: list[Entry] = []
    query = {"prefix": prefix, "delimiter": "/", "fields": "nextPageToken,prefixes,items(name,size,updated)"}
    while True:
        page = google_page(bucket, query, address)
        found += [Entry(name[len(prefix) :].rstrip("/"), True) for name in page.get("prefixes", ())]
        for item in page.get("items", ()):
            time = datetime.fromisoformat(item["updated"]).timestamp()
            found.append(Entry(item["name"][len(prefix) :], False, int(item["size"]), time))
        if not page.get("nextPageToken"):
            return [entry for entry in found if entry.name]
        query["pageToken"] = page["nextPageToken"]


def google_page(bucket: str, query: dict[str, str], address: Address) -> dict[str, Any]:
    """Return one answer of Google's JSON API to a listing of a bucket. Raises Denied, Transient, NotFound for the bucket."""
    server = os.environ.get("TENSORSTORE_GCS_HTTP_URL", "https://storage.googleapis.com").rstrip("/")
    asked = Request(f"{server}/storage/v1/b/{bucket}/o?{urlencode(query)}")
    token = _google_token(address)
    if token:
        asked.add_header("Authorization", f"Bearer {token}")
    try:
        with urlopen(asked, timeout=TIMEOUT) as answer:
            page: dict[str, Any] = json.load(answer)
            return page
    except HTTPError as error:
        error.close()
        codes = {
            404: "NOT_FOUND: NoSuchBucket",
            401: "UNAUTHENTICATED: not allowed",
            403: "PERMISSION_DENIED: not allowed",
        }
        said = RuntimeError(codes.get(error.code, f"UNAVAILABLE: {error.code} {error.reason}"))
    except OSError as error:
        said = RuntimeError(f"UNAVAILABLE: {getattr(error, 'reason', error)}")
    raise translated(said, address, "the folder")


def _google_token(address: Address) -> str:
    """Return a token of the application defaults; empty where nobody is logged in, which is enough for public buckets."""
    login = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") or "~/.config/gcloud/application_default_credentials.json"
    vendor = Path("/sys/class/dmi/id/sys_vendor")
    if not (Path(login).expanduser().exists() or (vendor.exists() and "Google" in vendor.read_text())):
        return ""
    try:
        import google.auth
        import google.auth.exceptions
        import google.auth.transport.requests
    except ImportError:
        raise missing_extra("google-auth", "gcs", f"listing {address.url} with your login") from None
    try:
        credentials, _ = google.auth.default(["https://www.googleapis.com/auth/devstorage.read_only"])
        credentials.refresh(google.auth.transport.requests.Request())  # type: ignore[no-untyped-call]
    except google.auth.exceptions.GoogleAuthError:  # its message may repeat what the file holds
        raise Denied(f"{address.url}: the login in {login} is not accepted; log in again", url=address.url) from None
    return str(credentials.token)


def _zipped(spec: dict[str, Any], address: Address) -> list[Entry]:
    import tensorstore

    require_no_fork(address)
    try:
        keys = tensorstore.KvStore.open(spec, context=context()).result().list().result()
    except FAILURES as error:
        raise translated(error, address, "the zip file") from None
    parts = [key.decode().partition("/") for key in keys]
    return [Entry(name, folder) for name, folder in {(name, bool(slash)) for name, slash, _ in parts if name}]


class _Links(HTMLParser):
    """The addresses that a page links to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the address of a link."""
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def escaped(path: str) -> str:
    """Return a path of a web server as a URL has it: `%20` for a space."""
    return quote(path, safe="/:@!$,;=+&()*~")


def _index(url: str, address: Address) -> list[Entry]:
    """Return what the index page of a folder links to directly below it, as Apache, nginx and Python's server write it."""
    try:
        with urlopen(url, timeout=TIMEOUT) as answer:
            page = answer.read(2**24).decode("utf-8", "replace") if "html" in answer.headers.get_content_type() else ""
    except HTTPError as error:
        error.close()
        if error.code in (404, 410):
            return []
        if error.code in (401, 403):
            raise Denied(f"{url}: the server gives no index of this folder; name a volume in it", url=url) from None
        raise Transient(f"{url}: {error.code} {error.reason}", url=url) from None
    except (URLError, TimeoutError, OSError) as error:
        reason = str(getattr(error, "reason", error))
        raise Transient(f"{url}: {unreachable(reason, 'http') or reason}", url=url) from None
    links = _Links()
    links.feed(page)
    if not page:
        raise RemoteError(f"{url}: the server gives no index of this folder; name a volume in it", url=url)
    top, found = unquote(urlsplit(url).path), set()
    for link in links.found:
        path = unquote(urlsplit(urljoin(url, link)).path)
        name, slash, rest = path.removeprefix(top).partition("/")
        if path.startswith(top) and name and not rest:
            found.add((name, bool(slash)))
    return [Entry(name, folder) for name, folder in found]

"""Folders in buckets (S3, Google Cloud Storage), on web servers and in zip files, through tensorstore's kvstores.

Credentials come from where the tools of each service keep them, and are never a part of a specification: S3 from the
environment, `?profile=`, ~/.aws, or the role of the machine; Google from its application defaults; else none at all.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ndbatch.errors import Denied, NotFound, PlanError, RemoteError, Transient
from ndbatch.remotes.address import Address
from ndbatch.remotes.places.keyvalue import FILES, ZIPPED, KeyValue
from ndbatch.remotes.places.listing import Entry, entries
from ndbatch.remotes.places.tensor import FAILURES, attempted, context, require_no_fork, translated

LISTINGS = 2000
"""Folders of a bucket that `digest` asks for at most: one request each."""
TAGGED = 64
"""Objects of the newest second whose tag is asked for: their time alone, in whole seconds, does not tell a rewrite."""
DRIVERS = {"s3": "s3", "gs": "gcs", "http": "http", "https": "http"}


class Objects(KeyValue):
    """A folder of a bucket, a web server or a zip file; `base` is the kvstore JSON of the place, `path` what follows."""

    def __init__(self, address: Address, base: dict[str, Any], path: str, where: str) -> None:
        super().__init__(address, where)
        self.base, self.path = base, path
        self.writable = base["driver"] in ("s3", "gcs")

    def spec(self) -> dict[str, Any]:
        """Return the kvstore JSON of this folder; for S3 it names the kind of credentials, not the credentials."""
        return {**self.base, "path": f"{self.path}/" if self.path or self.base["driver"] == "http" else ""}

    def child(self, name: str) -> Objects:
        """Return the folder `name` below this one."""
        name = name.strip("/")
        path = f"{self.path}/{name}" if self.path or self.base["driver"] == "http" else name
        return Objects(self.address, self.base, path, f"{self.where}/{name}") if name else self

    @property
    def parent(self) -> Objects | None:
        """The folder above; None for a whole bucket, server or zip file."""
        if not self.path.strip("/"):
            return None
        path, _, name = self.path.rpartition("/")
        return Objects(self.address, self.base, path, self.where.removesuffix(f"/{name}"))

    @cached_property
    def _store(self) -> Any:
        import tensorstore

        require_no_fork(self.address)
        try:
            return tensorstore.KvStore.open(self.spec(), context=context()).result()
        except FAILURES as error:
            raise translated(error, self.address, "the place") from None

    def read(self, key: str) -> bytes | None:
        """Return the bytes of an object, None where there is none."""
        found = self._fetch(key)
        return bytes(found.value) if found is not None else None

    def _fetch(self, key: str, **options: Any) -> Any:
        """Return what tensorstore reads of an object, None where there is none: some servers send on from a folder's name."""
        try:
            found = attempted(lambda: self._store.read(key, **options).result(), self.base["driver"] == "http")
        except FAILURES as error:
            if self.base["driver"] == "http" and "HTTP code 30" in str(error):
                return None
            raise translated(error, self.address, key) from None
        return found if found.state == "value" else None

    def parts(self, key: str, spans: Sequence[tuple[int, int]]) -> list[tuple[bytes, bytes]]:
        """Return the bytes from the first to before the second number of each span, asked for at the same time, with the
        object's tag.

        Raises NotFound where there is no such object, Denied, Transient, Corrupt where it ends before.
        """

        def wanted() -> list[Any]:
            return [self._store.read(key, byte_range=slice(*span)) for span in spans]

        try:
            found = attempted(lambda: [one.result() for one in wanted()], self.base["driver"] == "http")
        except FAILURES as error:
            raise translated(error, self.address, key) from None
        if any(one.state != "value" for one in found):
            raise NotFound(f"{self.where}/{key} is not there any more", url=self.address.url)
        return [(bytes(one.value), bytes(one.stamp.generation)) for one in found]

    def write(self, key: str, data: bytes) -> None:
        """Store an object in one request; Denied for places that are read only."""
        self.require_writable()
        try:
            self._store.write(key, data).result()
        except FAILURES as error:
            raise translated(error, self.address, key) from None

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield what is directly below, one request a thousand names."""
        for entry in self._entries(prefix.rstrip("/")):
            yield entry.name + "/" * entry.folder

    def _entries(self, below: str = "") -> list[Entry]:
        return entries(self.child(below).spec(), self.address)

    def exists(self, key: str = "") -> bool:
        """Return whether an object of this name, or anything below it, is there."""
        if key and self.etag(key):
            return True
        return any(True for _ in self.names(f"{key}/" if key else ""))

    def delete(self, prefix: str = "") -> None:
        """Remove an object, or the objects directly in a folder, then those of the folders below, each by its own name.

        Never by a range: a service that understands a range otherwise than tensorstore would lose what is beside it.
        """
        self.require_writable()
        if prefix and not prefix.endswith("/"):
            self._remove([prefix])
        folders = [prefix.rstrip("/")]
        for folder in folders:  # which grows as folders are found
            found = self._entries(folder)
            above = f"{folder}/" if folder else ""
            folders += [above + entry.name for entry in found if entry.folder]
            self._remove([above + entry.name for entry in found if not entry.folder])

    def _remove(self, keys: list[str]) -> None:
        try:
            for answer in [self._store.write(key, None) for key in keys]:
                answer.result()
        except FAILURES as error:
            raise translated(error, self.address, "the folder") from None

    def missing(self) -> RemoteError | None:
        """Return NotFound with the nearest name beside it; a web server without an index tells only that much."""
        above = self.parent
        try:
            if self.exists():
                return None
            beside = [name.rstrip("/") for name in above.names()] if above is not None else []
        except (NotFound, Transient) as error:
            return error
        except RemoteError:
            beside = []
        near = difflib.get_close_matches(self.name, beside, n=1, cutoff=0.7)
        hint = f"; did you mean {above}/{near[0]}?" if near else ""
        return NotFound(f"{self.where} does not exist{hint}", url=self.address.url)

    def etag(self, key: str) -> str:
        """Return the tag that the service gives the object: of its bytes in S3, of its generation in Google's."""
        found = self._fetch(key, byte_range=slice(0, 0))
        return "" if found is None else bytes(found.stamp.generation).hex() or "there"

    def digest(self, ignored: Collection[str] = ()) -> str:
        """Hold name, size and time of the first 20 000 objects, in 2000 requests at most, and tags of the newest.

        Services tell times in whole seconds: of up to 64 objects of the newest second the tag counts too. Files on a
        web server that gives no index are not seen; of a zip file the tag of the file counts.
        """
        if self.base["driver"] == "zip":
            return _file_tag(self.base["base"], self.address)
        if self.base["driver"] == "http":
            return ""
        files, _ = self._all()
        counted = {key: entry for key, entry in files.items() if entry.name not in ignored}
        found = hashlib.sha256("\n".join(f"{key} {one.size} {one.time}" for key, one in counted.items()).encode())
        last = max((int(entry.time) for entry in counted.values()), default=0)
        newest = [key for key, entry in counted.items() if int(entry.time) == last]
        for key in newest[:TAGGED]:
            found.update(self.etag(key).encode())
        return found.hexdigest()[:20]

    def _all(self) -> tuple[dict[str, Entry], bool]:
        """Return the objects below by key, and whether those are all, folder by folder."""
        waiting, asked = [""], 0
        files: dict[str, Entry] = {}
        while waiting and len(files) <= FILES and asked < LISTINGS:
            folder = waiting.pop(0)
            asked += 1
            for entry in self._entries(folder):
                key = f"{folder}/{entry.name}" if folder else entry.name
                if entry.folder:
                    waiting.append(key)
                else:
                    files[key] = entry
        return files, not waiting

    def stored_bytes(self) -> int | None:
        """Return the bytes of all objects below; None beyond 20 000 or 2000 folders, on the web and in a zip file."""
        if self.base["driver"] not in ("s3", "gcs"):
            return None
        files, whole = self._all()
        return sum(entry.size for entry in files.values()) if whole else None

    def require_writable(self) -> None:
        """Raise Denied for web servers and zip files."""
        if not self.writable:
            what = "a zip file" if self.base["driver"] == "zip" else "a web server"
            raise Denied(f"{self.where}: {what} is read only here; write to a folder or a bucket", url=self.address.url)


def remote(address: Address) -> Objects:
    """Return the folder of a bucket, a server or a zip file that `address` names. Raises PlanError for a wrong option."""
    zipped = ZIPPED.fullmatch(address.path)
    if zipped is not None:
        file = zipped["file"]
        base = {
            "driver": "zip",
            "base": {"driver": "file", "path": file} if address.place == "file" else _file(address, file),
        }
        inside = (zipped["inside"] or "").rstrip("/")
        return Objects(address, base, inside, f"{file}/{inside}" if inside else file)
    base, path = _service(address, address.path)
    return Objects(address, base, path, unquote(address.path) if base["driver"] == "http" else address.path)


def _file(address: Address, url: str) -> dict[str, Any]:
    base, path = _service(address, url)
    return {**base, "path": path}


def _service(address: Address, url: str) -> tuple[dict[str, Any], str]:
    """Return the kvstore JSON of a bucket or a server, and the path below it: of a server as its names are, without the `%20`
    of a URL, which tensorstore writes itself."""
    host, _, path = url.partition("://")[2].partition("/")
    driver = DRIVERS[address.place]
    if driver == "http":
        return {"driver": driver, "base_url": f"{address.place}://{host}"}, f"/{unquote(path)}".rstrip("/")
    if driver == "gcs":
        return {"driver": driver, "bucket": host}, path
    spec: dict[str, Any] = {"driver": driver, "bucket": host, "aws_credentials": credentials(address)}
    endpoint, region = s3_endpoint(address), s3_region(address)
    if endpoint:
        spec["endpoint"] = endpoint
    if region:
        spec["aws_region"] = region
    return spec, path


def s3_endpoint(address: Address) -> str:
    """Return the server of an S3 address: `?endpoint=`, the environment's, or nothing for Amazon's own."""
    said = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return address.option("endpoint", said).rstrip("/")


def s3_region(address: Address) -> str:
    """Return the region: `?aws_region=`, the environment's; at other servers than Amazon's any will do."""
    said = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    return address.option("aws_region", said) or ("us-east-1" if s3_endpoint(address) else "")


def credentials(address: Address) -> dict[str, Any]:
    """Return where tensorstore finds the keys for S3: its `aws_credentials` JSON, which holds none.

    In order: `?anonymous=true`, `?profile=`, the environment, AWS_PROFILE or the default profile in ~/.aws, the role of a
    container or of a machine at Amazon, none. The network is not asked for a role elsewhere: that would cost seconds.
    """
    if anonymous(address):
        return {"type": "anonymous"}
    profile = address.option("profile") or (
        "" if os.environ.get("AWS_ACCESS_KEY_ID") else os.environ.get("AWS_PROFILE")
    )
    if profile:
        return {"type": "profile", "profile": profile}
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return {"type": "environment"}
    if Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser().exists():
        return {"type": "profile"}
    roles = (
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    )
    vendor = Path("/sys/class/dmi/id/sys_vendor")
    if any(os.environ.get(role) for role in roles) or (vendor.exists() and "Amazon" in vendor.read_text()):
        return {"type": "default"}
    return {"type": "anonymous"}


def anonymous(address: Address) -> bool:
    """Return whether no credentials are to be used; PlanError where the option is neither true nor false."""
    said = address.option("anonymous", "false").lower()
    if said not in ("true", "false", "1", "0", "yes", "no"):
        raise PlanError(f"{address.url}: anonymous={said} is neither true nor false", option="anonymous")
    return said in ("true", "1", "yes")


def _file_tag(base: dict[str, Any], address: Address) -> str:
    """Return what changes when a zip file is replaced."""
    if base["driver"] == "file":
        facts = Path(base["path"]).stat()
        return f"{facts.st_size}-{facts.st_mtime_ns}"
    folder, _, name = base["path"].rpartition("/")
    return Objects(address, base, folder, address.path).etag(name)

"""Addresses of volumes: `scheme://path::/inside?level=1`, or a bare path whose ending tells the scheme.

The scheme is the format. The path is a local one, or itself the URL of a place elsewhere: `s3://bucket/image.zarr`,
`precomputed://https://host/layer`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlencode

from ndbatch.errors import PlanError

ENDINGS = {
    ".zarr": "zarr", ".zarr.zip": "zarr", ".ozx": "zarr", ".n5": "n5",
    ".h5": "hdf5", ".hdf5": "hdf5", ".hdf": "hdf5", ".he5": "hdf5",
    ".nii": "nifti", ".nii.gz": "nifti", ".nrrd": "nrrd", ".nhdr": "nrrd", ".npy": "npy", ".npz": "npz",
    ".mrc": "mrc", ".mrc.gz": "mrc", ".map": "mrc", ".rec": "mrc", ".st": "mrc",
    ".tif": "tiff", ".tiff": "tiff", ".btf": "tiff",
}  # fmt: skip
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""Endings of slices: of a glob, `slices/*.tif`, all of them; of one picture those that no other format has."""
FOLDERS = ("n5", "precomputed", "zarr")
"""Formats that are folders, which need no ending."""
PLACES = {"s3": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "https", "file": "file"}
"""What a path may begin with, `s3://`, where it is not a path of this machine; and the one spelling that is kept."""
PLACE_OPTIONS = {
    "s3": ("anonymous", "aws_region", "endpoint", "profile"),
    "gs": (),
    "http": (),
    "https": (),
}
"""Options of an address that say how to reach a place; the formats do not know them."""
SECRET = re.compile(r"secret|token|signature|password|credential|access.?key|^sig$|^auth|^x-(amz|goog)-", re.IGNORECASE)
"""Names of options that hold secrets: never taken, and their values never shown."""


class Token(Protocol):
    """Where the secret of a service is: pickled, printed and compared as the reference that it is."""

    def resolve(self) -> str:
        """Return the secret, read now; Denied where it is missing."""
        ...

    def reference(self) -> dict[str, str]:
        """Return where the secret is, as it is written in a configuration."""
        ...


@dataclass(frozen=True)
class Address:
    """Where a volume is: `scheme`, `path`, the part `inside` a file that holds several, and `options` by name."""

    scheme: str
    path: str
    inside: str = ""
    options: tuple[tuple[str, str], ...] = ()
    token: Token | None = None
    """What tells a service who asks; no part of `url`."""

    @property
    def place(self) -> str:
        """Where the path leads: s3, gs, http, https; or file, for a path of this machine."""
        return place_of(self.path)

    @property
    def url(self) -> str:
        """The address as one string; a path without `scheme://` where its ending tells the scheme."""
        bare = not self.scheme or _scheme_of_ending(self.path) == self.scheme
        text = self.path if bare else f"{self.scheme}://{self.path}"
        text += f"::{self.inside}" if self.inside else ""
        return text + (f"?{urlencode(self.options, safe=':,/')}" if self.options else "")

    def option(self, name: str, default: str = "") -> str:
        """Return the option `name`, or `default`."""
        return dict(self.options).get(name, default)

    def require_options(self, known: Collection[str]) -> None:
        """Raise PlanError for an option that neither the store nor the place knows, naming the nearest one."""
        known = [*known, *PLACE_OPTIONS.get(self.place, ())]
        for name, value in self.options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = (
                    f"did you mean {near[0]}={value}?" if near else f"{self.scheme} knows: {', '.join(sorted(known))}"
                )
                raise PlanError(f"{self.url}: unknown option {name}={value}; {hint}", option=name)

    def count(self, name: str) -> int:
        """Return the option `name` as a whole number, 0 where it is absent; PlanError where it is none."""
        text = self.option(name, "0")
        if not (text.isascii() and text.isdigit()):
            raise PlanError(f"{self.url}: {name}={text} is not a whole number from 0 up", option=name)
        return int(text)

    def with_options(self, **options: str) -> Address:
        """Return the address with options added or replaced, sorted by name."""
        return replace(self, options=tuple(sorted({**dict(self.options), **options}.items())))

    def with_token(self, token: Token) -> Address:
        """Return the address with the reference to a secret, for the services that ask for one."""
        return replace(self, token=token)


def place_of(path: str) -> str:
    """Return the place that a path or URL begins with: s3, gs, http, https; or file, for a path of this machine."""
    start, separator, _ = path.partition("://")
    return PLACES.get(start.lower(), "file") if separator else "file"


def parse(url: str, base: Path | None = None, folder: bool = False) -> Address:
    """Return the address that `url` names; relative paths are taken from the folder `base` (or stay as they are).

    Raises PlanError where no scheme is given and the ending tells none (unless it may be a `folder`, whose address has no
    scheme), and for a URL that holds a secret.
    """
    text, _, query = url.partition("?")
    options = tuple(sorted(parse_qsl(query, keep_blank_values=True)))
    _refuse_secrets(text, options)
    scheme, separator, rest = text.partition("://")
    scheme, plus, protocol = scheme.partition("+")
    if plus and protocol in ("http", "https"):  # boss+https://host/... is boss://https://host/...
        rest = f"{protocol}://{rest}"
    elif plus:
        scheme = f"{scheme}+{protocol}"
    if not separator or scheme.lower() in PLACES:
        scheme, rest = "", text
    start, separator, after = rest.rpartition("://")
    host = re.match(r"\[[0-9A-Fa-f:.]*\]|", after)[0]  # type: ignore[index]  # the colons of [::1] part nothing
    head, colons, inside = after[len(host) :].partition("::")
    head = host + head
    path = f"{start}{separator}{head}"
    scheme = scheme or _scheme_of_ending(path)
    if not head:
        raise PlanError(
            f"{url!r} names no file and no volume; write a path such as image.tif or zarr:///data/image.zarr"
        )
    if not scheme and not folder:
        raise PlanError(
            f"{url!r}: cannot tell the format from the ending; use one of {', '.join(ENDINGS)}, or write the scheme, "
            f"such as zarr://{path}"
        )
    if place_of(path) != "file":
        path = _tidy(path)
    elif not scheme or scheme in {*ENDINGS.values(), *FOLDERS, "images"}:
        path = local_path(path, base)
    if colons and inside and not inside.startswith("/"):
        inside = "/" + inside
    return Address(scheme, path, inside, options)


def local_path(path: str, base: Path | None = None) -> str:
    """Return a path of this machine, `file:///` taken off, `~` opened, and taken from the folder `base` if relative."""
    if path.lower().startswith("file://"):
        path = unquote(path[len("file://") :].removeprefix("localhost"))
    found = Path(path).expanduser()
    return str((base / found).resolve() if base is not None and not found.is_absolute() else found)


def _tidy(path: str) -> str:
    """Return the URL of a place in its one spelling: no slash at the end, `gs://` for `gcs://`; it must name a host."""
    start, _, rest = path.partition("://")
    rest = rest.rstrip("/")
    if not rest.partition("/")[0]:
        raise PlanError(f"{path!r} names no {'bucket' if start in ('s3', 'gs', 'gcs') else 'host'}")
    return f"{PLACES[start.lower()]}://{rest}"


def _refuse_secrets(text: str, options: tuple[tuple[str, str], ...]) -> None:
    """Raise PlanError for user:password@ or a key in a URL, without repeating it: addresses are kept and shown."""
    for start, host in re.findall(r"\b(\w+)://(?!\w+://)([^/]*)", text):
        if start.lower() in PLACES and "@" in host:
            raise PlanError(
                f"{start}://...@{host.rpartition('@')[2]}: a password has no place in a URL, which is kept in journals; "
                "use the environment or a profile"
            )
    for name, _ in options:
        if SECRET.search(name):
            raise PlanError(
                f"{text}: the option {name} is a secret, and has no place in a URL, which is kept in journals; use the "
                "environment or a profile",
                option=name,
            )


def _scheme_of_ending(path: str) -> str:
    """Return the scheme that the file ending of `path` tells, or an empty string."""
    name = path.rstrip("/").lower()
    if name.endswith(PICTURES) and ("*" in name or not name.endswith(tuple(ENDINGS))):
        return "images"
    around = next((scheme for ending, scheme in ENDINGS.items() if scheme in FOLDERS and f"{ending}/" in name), "")
    return next((scheme for ending, scheme in ENDINGS.items() if name.endswith(ending)), around)

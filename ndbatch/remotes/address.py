"""Addresses of volumes: `scheme://path::/inside?level=1`, or a bare path whose ending tells the scheme."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from ndbatch.errors import PlanError

ENDINGS = {
    ".zarr": "zarr",
    ".h5": "hdf5", ".hdf5": "hdf5", ".hdf": "hdf5", ".he5": "hdf5",
    ".tif": "tiff", ".tiff": "tiff", ".btf": "tiff",
}  # fmt: skip


@dataclass(frozen=True)
class Address:
    """Where a volume is: `scheme`, `path`, the part `inside` a file that holds several, and `options` by name."""

    scheme: str
    path: str
    inside: str = ""
    options: tuple[tuple[str, str], ...] = ()

    @property
    def url(self) -> str:
        """The address as one string; a path without `scheme://` where its ending tells the scheme."""
        bare = _scheme_of_ending(self.path) == self.scheme
        text = self.path if bare else f"{self.scheme}://{self.path}"
        text += f"::{self.inside}" if self.inside else ""
        return text + (f"?{urlencode(self.options)}" if self.options else "")

    def option(self, name: str, default: str = "") -> str:
        """Return the option `name`, or `default`."""
        return dict(self.options).get(name, default)

    def require_options(self, known: Collection[str]) -> None:
        """Raise PlanError for an option that the store does not know, naming the nearest one."""
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


def parse(url: str, base: Path | None = None) -> Address:
    """Return the address that `url` names; relative paths are taken from the folder `base` (or stay as they are).

    Raises PlanError where no scheme is given and the ending tells none.
    """
    text, _, query = url.partition("?")
    scheme, separator, rest = text.partition("://")
    path, _, inside = (rest if separator else text).partition("::")
    if not separator:
        scheme = _scheme_of_ending(path)
    if not path:
        raise PlanError(
            f"{url!r} names no file and no volume; write a path such as image.tif or zarr:///data/image.zarr"
        )
    if not scheme:
        raise PlanError(
            f"{url!r}: cannot tell the format from the ending; use one of {', '.join(ENDINGS)}, or write the scheme, "
            f"such as zarr://{path}"
        )
    if scheme in set(ENDINGS.values()):
        path = str(Path(path).expanduser())
        if base is not None and not Path(path).is_absolute():
            path = str((base / path).resolve())
    if inside and not inside.startswith("/"):
        inside = "/" + inside
    return Address(scheme, path, inside, tuple(sorted(parse_qsl(query))))


def _scheme_of_ending(path: str) -> str:
    """Return the scheme that the file ending of `path` tells, or an empty string."""
    name = path.rstrip("/").lower()
    inside_zarr = "zarr" if ".zarr/" in name else ""
    return next((scheme for ending, scheme in ENDINGS.items() if name.endswith(ending)), inside_zarr)

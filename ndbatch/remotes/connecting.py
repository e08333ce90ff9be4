"""`ndbatch.open` and `ndbatch.connect`: from an address to a volume, or to the remote that holds several."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from ndbatch.errors import PlanError
from ndbatch.remotes import api
from ndbatch.remotes.address import ENDINGS, FOLDERS, Address, Token, parse
from ndbatch.remotes.base import Volume
from ndbatch.remotes.folder import FolderRemote, recognised, remove_there
from ndbatch.remotes.registry import remote_class
from ndbatch.remotes.remote import Remote, remove

P = ParamSpec("P")


def connect(url: str | os.PathLike[str], *, base: Path | None = None, token: Token | None = None) -> Remote:
    """Return the remote at `url`: a folder, `s3://bucket/folder`, `gs://`, `http(s)://`, or a service. Nothing is read.

    Options of the address reach the place: `?profile=lab`, `?endpoint=https://minio:9000`, `?anonymous=true`. Relative paths
    are taken from `base`, the current folder if not given; `token` tells a service who asks. Raises PlanError for an
    address that is none.
    """
    address = parse(os.fspath(url), base or Path.cwd(), folder=True)
    service = remote_class(address.scheme)
    if service is not None:
        return service(address if token is None else address.with_token(token))
    if address.scheme not in ("", *ENDINGS.values(), *FOLDERS):
        raise PlanError(f"{address.url}: {address.scheme}:// is no folder of volumes")
    if not address.scheme:
        address.require_options(())
    return FolderRemote(replace(address, scheme="", inside=""))


def delete(address: Address) -> None:
    """Remove the volume at `address`, in a folder, a bucket or a service. NotFound where there is none."""
    if remote_class(address.scheme) is None:
        remove_there(address)
    else:
        remove(address)


def _or_remote(function: Callable[P, Volume]) -> Callable[P, Volume | Any]:
    """Return `ndbatch.open`: a folder without an ending is opened as what it holds, or is a Remote."""

    @wraps(function)
    def opened(*arguments: P.args, **options: P.kwargs) -> Volume | Any:
        url, base = arguments[0] if arguments else None, options.get("base")
        if not isinstance(url, str | os.PathLike):
            return function(*arguments, **options)
        address = parse(os.fspath(url), base if isinstance(base, Path) else Path.cwd(), folder=True)
        if address.scheme or (address.place == "file" and not Path(address.path).is_dir()):
            return function(*arguments, **options)
        try:
            known = recognised(address)
        except PlanError:
            if set(options) - {"base"}:
                raise
            return connect(url, base=base if isinstance(base, Path) else None)
        return api.open(known.url, **options)  # type: ignore[arg-type]

    return opened


open = _or_remote(api.open)
"""Open a volume, as `ndbatch.remotes.api.open` does; a folder or a bucket of volumes gives a `Remote`."""


__all__ = ["connect", "delete", "open", "recognised"]

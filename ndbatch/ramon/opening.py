"""From an address to a store of RAMON objects."""

from __future__ import annotations

import os
from pathlib import Path

from ndbatch.errors import PlanError
from ndbatch.ramon.files import ENDINGS, FileObjects
from ndbatch.ramon.store import Objects
from ndbatch.remotes.address import Address, Token, parse
from ndbatch.remotes.http.client import segment


def open(url: str | os.PathLike[str], *, token: Token | None = None, base: Path | None = None) -> Objects:
    """Open the RAMON objects at `url`: `ndstore://host[:port]/token/channel`, or a file of `ENDINGS`.

    Nothing is asked of a service yet. `token` tells it who asks; without one the variable NDSTORE_TOKEN of the environment
    does. Relative paths are taken from the folder `base`. Raises PlanError for other addresses, Corrupt for a file that
    holds no objects.
    """
    text = os.fspath(url)
    if "://" not in text:
        path = Path(text).expanduser()
        return FileObjects(path if base is None or path.is_absolute() else base / path)
    address = parse(text, base)
    if address.scheme != "ndstore":
        raise PlanError(f"{text}: RAMON objects are kept in an ndstore, or in files that end in {', '.join(ENDINGS)}")
    return open_channel(address if token is None else address.with_token(token))


def open_channel(address: Address) -> Objects:
    """Return the objects of a channel of an ndstore. PlanError where the address names none."""
    from ndbatch.ramon.channel import ChannelObjects
    from ndbatch.remotes.ndstore.service import channel_of, connected

    token, channel = map(segment, channel_of(address))
    return ChannelObjects(connected(address).client, f"/sd/{token}/{channel}", address.url)

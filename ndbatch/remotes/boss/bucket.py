"""Channels whose voxels lie in a bucket: the service keeps the documents, a precomputed layer the voxels."""

from __future__ import annotations

from ndbatch.errors import RemoteError
from ndbatch.remotes.address import PLACE_OPTIONS, Address
from ndbatch.remotes.base import Volume
from ndbatch.remotes.boss.place import channel_of
from ndbatch.remotes.boss.service import Document

OPEN_DATA = "bossdb-open-data"
"""The bucket of the public data, which is where a channel lies that names none."""


def bucket_volume(address: Address, channel: Document) -> Volume:
    """Return the precomputed layer of a channel with `storage_type` cloudvol, at the level of the address.

    Its path is the channel's own or `/collection/experiment/channel`. It is read without an account unless the address says
    `profile`. Raises NotFound, Denied, Corrupt.
    """
    from ndbatch.remotes.precomputed.volume import PrecomputedVolume

    bucket = str(channel.get("bucket") or OPEN_DATA)
    path = str(channel.get("cv_path") or f"/{'/'.join(channel_of(address).names)}").strip("/")
    options = {name: value for name, value in address.options if name in (*PLACE_OPTIONS["s3"], "level")}
    if "profile" not in options:
        options.setdefault("anonymous", "true")
    layer = Address("precomputed", f"s3://{bucket}/{path}").with_options(**options)
    volume = PrecomputedVolume.open(layer)
    if set(volume.axes) - set("zyx"):
        raise RemoteError(
            f"{address.url} lies in {layer.path} and has the axes {volume.axes}; open that layer itself, with ?c=0",
            url=address.url,
        )
    return volume

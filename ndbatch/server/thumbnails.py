"""Small pictures of served volumes, kept until the voxels change."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ndbatch.remotes.base import Volume
from ndbatch.report.pictures import png, sight
from ndbatch.report.planes import Limits, contrast_of

if TYPE_CHECKING:
    from ndbatch.server.catalogue import Channel
    from ndbatch.server.service import Service

LIMITS = Limits(pixels=512, voxels=2**22)
"""What one picture may show and read: a plane of 2048 x 2048 voxels at most, else the middle of it."""
FINE = 256
"""Voxels that the longer side of a plane should have: coarser levels are not taken below it."""
KEPT = 256


@dataclass(frozen=True)
class Thumbnail:
    """A PNG of a slice through the middle; where it lies; and the values shown black and white in it."""

    png: bytes
    words: str
    contrast: tuple[float, float]


class Thumbnails:
    """The pictures of one process. Safe for threads; two that ask for one picture at once may both make it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Thumbnail] = OrderedDict()

    def of(self, channel: Channel) -> Thumbnail:
        """Return the picture of a channel. Raises what reading the volume raises."""
        volume = self._coarse(channel)
        key = json.dumps([channel.url, channel.extra, volume.spec.level, volume.version()])
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        seen = sight(volume, limits=LIMITS)
        contrast = contrast_of([seen.plane])
        made = Thumbnail(png(seen.picture(contrast).rgb), seen.words, contrast)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made

    def _coarse(self, channel: Channel) -> Volume:
        """Return the coarsest level that is still fine enough for a picture."""
        best = self._service.volume(channel)
        for level in range(1, best.levels):
            volume = self._service.volume(channel, level)
            if max(volume.shape[volume.axes.index(axis)] for axis in "yx") < FINE:
                break
            best = volume
        return best

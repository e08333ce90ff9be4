"""The part of the conformance suite that is about levels: pyramids grow level by level and lie where they should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ndbatch
from ndbatch.errors import Conflict, NotFound, PlanError
from ndbatch.geometry import Shape
from ndbatch.remotes.address import parse
from ndbatch.remotes.base import Array, Volume
from ndbatch.remotes.registry import store_class


def with_option(url: str, option: str) -> str:
    """Return `url` with one more option, `name=value`."""
    return f"{url}{'&' if '?' in url else '?'}{option}"


def coarser(volume: Volume, factor: Shape) -> dict[str, Any]:
    """Return shape, offset and voxel size of `volume` at `factor` voxels in one: all that any of its voxels touches."""
    first = tuple(a // f for a, f in zip(volume.domain.start, factor, strict=True))
    last = tuple(-(-b // f) for b, f in zip(volume.domain.stop, factor, strict=True))
    sizes = zip(volume.voxel_size or (1.0,) * len(factor), factor, strict=True)
    return {
        "shape": tuple(b - a for a, b in zip(first, last, strict=True)),
        "offset": first,
        "voxel_size": tuple(s * f for s, f in sizes),
    }


class LevelTests:
    """What `VolumeSuite` asks of levels; a subclass says how another library reads a level (`read_raw_level`)."""

    def read_raw_level(self, url: str, level: int) -> Array:
        """Return all voxels of a level, C-order, zyx, read with another library."""
        pytest.skip("no other library reads levels of this format here")

    def keeps_levels(self, volume: Volume) -> bool:
        """Return whether levels can be appended to `volume`."""
        return volume.abilities.levels

    def append(self, volume: Volume, url: str, level: int, factor: Shape) -> Array:
        """Append a level, write voxels that tell their place and their level, and return them."""
        facts = {"dtype": volume.dtype, "kind": str(volume.kind), "chunks": volume.chunks, "shards": volume.spec.shards}
        made = ndbatch.create(with_option(url, f"level={level}"), **{**facts, **coarser(volume, factor)})
        data = (np.arange(made.domain.size) * (level + 1)).astype(made.dtype).reshape(made.shape)
        made.write(made.domain, data)
        made.close()
        return data

    def _pyramid(self, volume: Volume, url: str) -> list[Array]:
        """Return the voxels of three levels, the last coarser by other factors along each axis; skip without levels."""
        if not self.keeps_levels(volume):
            with pytest.raises(PlanError, match="level"):
                self.append(volume, url, 1, (2, 2, 2))
            pytest.skip(f"{volume.url} keeps no levels")
        data = np.arange(volume.domain.size).astype(volume.dtype).reshape(volume.shape)
        volume.write(volume.domain, data)
        return [data, self.append(volume, url, 1, (1, 2, 2)), self.append(volume, url, 2, (2, 4, 6))]

    def test_levels_are_appended(self, volume: Volume, url: str) -> None:
        """Every level has its voxels, its extent, its place and its voxel size, and leaves the others as they were."""
        data = self._pyramid(volume, url)
        for level, factor in enumerate([(1, 1, 1), (1, 2, 2), (2, 4, 6)]):
            found = ndbatch.open(url, level=level)
            facts = coarser(volume, factor)
            assert (found.spec.level, found.levels) == (level, 3)
            assert (found.shape, found.offset) == (facts["shape"], facts["offset"])
            assert found.voxel_size == pytest.approx(facts["voxel_size"])
            assert (found.dtype, found.kind, found.axes) == (volume.dtype, volume.kind, "zyx")
            assert (found.chunks, found.spec.shards) == (volume.chunks, volume.spec.shards)
            assert np.array_equal(found.read(found.domain), data[level])

    def test_another_library_reads_the_levels(self, volume: Volume, url: str) -> None:
        """Each level is where others look for it."""
        for level, data in enumerate(self._pyramid(volume, url)):
            assert np.array_equal(self.read_raw_level(url, level), data)

    def test_levels_come_in_order(self, volume: Volume, url: str) -> None:
        """A level that is there is a Conflict; one whose finer level is missing, or of another type, is refused."""
        data = self._pyramid(volume, url)
        for level in (1, 2):
            with pytest.raises(Conflict, match=f"level {level} exists already"):
                self.append(volume, url, level, (2, 2, 2))
        with pytest.raises(PlanError, match="level 4 needs level 3 first"):
            self.append(volume, url, 4, (8, 8, 8))
        with pytest.raises(PlanError, match="dtype"):
            ndbatch.create(with_option(url, "level=3"), dtype="float32", **coarser(volume, (4, 8, 8)))
        assert ndbatch.open(url).levels == 3
        for level in range(3):
            assert np.array_equal(ndbatch.open(url, level=level)[...], data[level])

    def test_what_exists_of_levels(self, volume: Volume, url: str) -> None:
        """A level exists by its number; a level below which nothing is cannot be made; one level is never removed."""
        store, missing = store_class(volume.scheme), with_option(url, "level=3")
        self._pyramid(volume, url)
        assert store.exists(parse(with_option(url, "level=2")))
        assert not store.exists(parse(missing))
        with pytest.raises(NotFound, match="level"):
            ndbatch.open(missing)
        with pytest.raises(PlanError, match="single level"):
            store.delete(parse(with_option(url, "level=1")))
        store.delete(parse(url))
        assert not store.exists(parse(with_option(url, "level=1")))
        with pytest.raises(PlanError, match="level 0"):
            self.append(volume, url, 1, (2, 2, 2))
        assert not store.exists(parse(url))

    def test_attributes_outlive_levels(self, volume: Volume, url: str) -> None:
        """The document of a pyramid is one, seen from each level."""
        if self.keeps_levels(volume) and volume.abilities.attributes:
            volume.set_attributes({"run": "one"})
        self._pyramid(volume, url)
        assert ndbatch.open(url).attributes == {"run": "one"}
        ndbatch.open(url, level=1).set_attributes({"complete": True})
        assert ndbatch.open(url, level=2).attributes == {"run": "one", "complete": True}

"""What a run asks of the places where its volumes lie: chunks to read, objects to write, folders to list in buckets.

A bucket charges for requests, whatever their size, and each takes its time: small objects cost more than the bytes in them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ndbatch.geometry import Grid, Shape
from ndbatch.plan.program import Load, Stage, ratio
from ndbatch.remotes.base import ArraySpec, Volume
from ndbatch.steps.base import ArrayInfo

if TYPE_CHECKING:
    from ndbatch.plan.model import Target

BUCKETS = ("s3", "gs")
SMALL, MANY = 256 * 2**10, 1000
"""Objects of fewer bytes, not compressed, take longer to ask for than to send: 20 ms an answer with 32 under way is 0.6 ms an
object, in which 400 MB/s send 256 KiB. A few of them do not matter."""
VERY_MANY = 10**6
"""Objects of any size that are worth a word: listing, copying and deleting them takes hours."""
GOAL = 8 * 2**20
"""Bytes, not compressed, of an object that is proposed."""
FOLDERS, FILES, PAGE = 2000, 20_000, 1000
"""Folders and objects that are listed at most to tell a volume's version (`ndbatch.remotes.places`); names in one answer."""
PRICE_WRITE, PRICE_READ = 0.005 / 1000, 0.0004 / 1000
"""US dollars for PUT or LIST, and for GET: list prices of S3 Standard and of Google's Standard storage in US regions."""


@dataclass(frozen=True)
class Requests:
    """Requests to buckets by kind, those for metadata (some dozens in a run, a few more for each worker) left out."""

    get: int = 0
    put: int = 0
    listed: int = 0
    """LIST requests."""

    @property
    def dollars(self) -> float:
        """What they cost by the assumed price list; neither storage nor traffic counts."""
        return (self.put + self.listed) * PRICE_WRITE + self.get * PRICE_READ

    def document(self) -> dict[str, Any]:
        """Return the counts, the cost and the prices as JSON."""
        prices = {"GET": PRICE_READ * 1000, "PUT": PRICE_WRITE * 1000, "LIST": PRICE_WRITE * 1000}
        return {
            "GET": self.get,
            "PUT": self.put,
            "LIST": self.listed,
            "dollars": round(self.dollars, 6),
            "dollars_per_1000": prices,
        }


@dataclass(frozen=True)
class Traffic:
    """What stages read and write, with the grids of blocks that they go over."""

    stages: Sequence[Stage]
    grids: Mapping[Shape, Grid]
    infos: Mapping[str, ArrayInfo]
    sources: Mapping[str, Volume]
    targets: Mapping[str, Target]

    def chunks(self, stage: Stage) -> int:
        """Return how many chunks `stage` reads from anywhere, those read again for context included (an estimate)."""
        return sum(self._touched(stage, load, self._spec(load.name).chunks) for load in stage.loads)

    def asked(self) -> Requests | None:
        """Return what buckets are asked in the whole run (an estimate); None where no volume lies in one."""
        inside = {name: volume.spec for name, volume in self.sources.items() if volume.address.place in BUCKETS}
        written = self._written()
        if not inside and not written:
            return None
        get = sum(
            self._gets(stage, load)
            for stage in self.stages
            for load in stage.loads
            if load.name in inside or load.name in written
        )
        listed = sum(listings(self.sources[name]) for name in inside)
        return Requests(get, sum(written.values()), listed)

    def _written(self) -> dict[str, int]:
        """Return how many objects the run writes into buckets, by volume."""
        return {
            name: objects(target.spec)
            for name, target in self.targets.items()
            if target.address.place in BUCKETS and any(name in stage.stores for stage in self.stages)
        }

    def warnings(self) -> Iterator[str]:
        """Yield a sentence for each volume in a bucket whose objects are so small, or so many, that requests dominate."""
        for name, volume in self.sources.items():
            if volume.address.place in BUCKETS:
                count, size = objects(volume.spec), _bytes(volume.spec, volume.spec.chunks)
                if size < SMALL and count >= MANY:
                    yield (
                        f"inputs.{name}: {count:,} objects of {_size(size)} (not compressed) to read: requests take longer than "
                        "the voxels in them; for more than one run copy it first, with larger chunks"
                    )
        for name, count in self._written().items():
            spec = self.targets[name].spec
            size = _bytes(spec, spec.write_unit)
            if self.targets[name].create and ((size < SMALL and count >= MANY) or count >= VERY_MANY):
                yield (
                    f"outputs.{name}: {count:,} objects of {_size(size)} (not compressed) to write: requests take longer "
                    f"than the voxels in them; set outputs.{name}.shards: {_named(spec)} where the format has shards, else chunks"
                )

    def _gets(self, stage: Stage, load: Load) -> int:
        """Return the GET requests of one load: a chunk each, and the index of each shard once, or all of it where a block
        covers it. Chunks that lie beside each other in a shard may be read by one request, so it can be fewer."""
        spec = self._spec(load.name)
        chunks = self._touched(stage, load, spec.chunks)
        if spec.shards is None:
            return chunks
        shards, inner = self._touched(stage, load, spec.shards), math.prod(ratio(spec.shards, spec.chunks))
        return shards if chunks >= shards * inner else chunks + min(shards, objects(spec))

    def _spec(self, name: str) -> ArraySpec:
        return self.sources[name].spec if name in self.sources else self.targets[name].spec

    def _touched(self, stage: Stage, load: Load, chunks: Shape) -> int:
        """Return how many chunks of a shape all blocks of a stage touch together, taken from an inner block."""
        grid, per_block = self.grids[stage.scale], 1
        by = ratio(self.infos[load.name].scales, stage.scale)
        for n, f, h, c, extent in zip(grid.block, by, load.halo, chunks, grid.bounds.shape, strict=True):
            n, extent = -(-n // f), -(-extent // f)
            per_block *= min(-(-(n + 2 * h) // c) + (1 if h else 0), -(-extent // c) + (1 if h else 0))
        return per_block * len(grid)


def objects(spec: ArraySpec) -> int:
    """Return how many objects a volume is stored in: its shards, or its chunks."""
    return math.prod(_counts(spec))


def listings(volume: Volume) -> int:
    """Return the LIST requests that tell the version of a volume in a bucket: a folder each, a thousand names an answer."""
    counts = _counts(volume.spec)
    if volume.scheme not in ("zarr", "n5"):  # which nest folders, one for each axis; others keep all chunks in one
        return 1 + -(-min(math.prod(counts), FILES) // PAGE)
    folders = 2 + (volume.scheme == "zarr") + sum(itertools.accumulate(counts[:-1], lambda a, b: a * b))
    return min(folders * -(-counts[-1] // PAGE), FOLDERS)


def _counts(spec: ArraySpec) -> Shape:
    return tuple(-(-n // unit) for n, unit in zip(spec.shape, spec.write_unit, strict=True))


def _bytes(spec: ArraySpec, shape: Shape) -> int:
    return math.prod(shape) * spec.dtype.itemsize


def _size(size: int) -> str:
    return f"{size / 1000:.3g} kB" if size < 10**6 else f"{size / 10**6:.3g} MB"


def _named(spec: ArraySpec) -> str:
    """Return shards of about `GOAL` bytes, whole numbers of chunks, as YAML."""
    shards = list(spec.write_unit)
    while _bytes(spec, tuple(shards)) < GOAL:
        open_axes = [i for i, (s, n) in enumerate(zip(shards, spec.shape, strict=True)) if s < n]
        if not open_axes:
            break
        shards[min(open_axes, key=lambda i: shards[i])] *= 2
    return "{" + ", ".join(f"{axis}: {n}" for axis, n in zip(spec.axes, shards, strict=True)) + "}"

"""ndbatch beside the fastest of its field and a bare floor: the same work, a fresh process each, one after the other.

    python benchmarks/speed.py [--works transcode components ...] [--edge 512] [--dtype uint8] [--rounds 3]

Peers run in an environment of their own (`make peers`); where it is missing they are left out. Results are compared before
any time is believed, slab by slab, so that a size is bounded by the disk, and for the floor by memory. Contenders take turns,
so that what else the machine does meets all of them alike; read the ratios, not the seconds. The floor is tensorstore alone
for copies, and half the time of one thread on the array in memory for the rest.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import ndbatch as nb

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-peers/bin/python"
Array = np.ndarray[Any, Any]
Slabs = Iterator[tuple[Array, Array]]
"""Planes of two volumes at the same place; neighbouring slabs share two planes."""
THICKNESS = 64
"""Planes that are made, written and compared at a time."""


@dataclass(frozen=True)
class Work:
    """One work: who does it, on which volumes, the aim as a ratio, and where each leaves its result."""

    contenders: tuple[str, ...]
    """Names of scripts below `contenders`, ndbatch and the floor aside."""
    volumes: tuple[str, ...]
    aim: str
    results: Mapping[str, str]
    """Paths of what must be equal, by contender."""
    same: Callable[[Slabs], bool] = lambda slabs: all(np.array_equal(one, other) for one, other in slabs)


def same_partition(slabs: Slabs) -> bool:
    """Return whether two label images have the same objects, whatever their numbers."""
    pairs = np.empty((2, 0), np.uint64)
    for one, other in slabs:
        found = np.stack([one.reshape(-1).astype(np.uint64), other.reshape(-1).astype(np.uint64)])
        # Runs of equal pairs first: there are few, and sorting is what costs.
        turns = np.flatnonzero(np.diff(found, axis=1).any(axis=0)) + 1
        pairs = np.unique(np.concatenate([pairs, found[:, :1], found[:, turns]], axis=1), axis=1)
    return bool(pairs.shape[1] == np.unique(pairs[0]).size == np.unique(pairs[1]).size)


def nearly(slabs: Slabs) -> bool:
    """Return whether two images differ by rounding at most: a level is rounded from the level before."""
    return all(bool(np.abs(one.astype(int) - other.astype(int)).max() <= 1) for one, other in slabs)


def mostly(slabs: Slabs) -> bool:
    """Return whether two label images agree but at the borders of objects, where every library breaks ties by its own rule."""
    counted, sure = 0, 0
    for one, other in slabs:
        inside = np.ones(one.shape, bool)
        for labels in (one, other):
            inside &= ndimage.minimum_filter(labels, 3) == ndimage.maximum_filter(labels, 3)
        inside[[0, -1]] = False  # what is beyond is not in this slab
        if not (one == other)[inside].all():
            return False
        counted, sure = counted + inside.size, sure + int(inside.sum())
    return sure > 0.1 * counted


WORKS = {
    "transcode": Work(
        ("tensorstore", "dask", "daisy"),
        ("image",),
        "<= 1.3 x floor",
        {
            "ndbatch": "ndbatch.zarr",
            "tensorstore": "tensorstore.zarr/0",
            "dask": "dask.zarr/0",
            "daisy": "daisy.zarr/0",
        },
    ),
    "precomputed": Work(
        ("tensorstore", "igneous"),
        ("image", "image.precomputed"),
        "<= 1.5 x floor",
        {
            "ndbatch": "precomputed://ndbatch.precomputed",
            "tensorstore": "precomputed://tensorstore.precomputed",
            "igneous": "precomputed://igneous.precomputed",
        },
    ),
    "gaussian": Work(("dask",), ("image",), "<= 1.25 x floor", {"ndbatch": "ndbatch.zarr", "dask": "dask.zarr/0"}),
    "components": Work(
        ("igneous",),
        ("mask", "mask.precomputed"),
        "<= 0.25 x igneous",
        {"ndbatch": "ndbatch.zarr", "igneous": "precomputed://igneous.precomputed"},
        same_partition,
    ),
    "image-pyramid": Work(
        ("tensorstore", "igneous"),
        ("image64", "image64.precomputed"),
        "<= 1 x the faster",
        {
            "ndbatch": "ndbatch.zarr?level=2",
            "tensorstore": "tensorstore-3.zarr/0",
            "igneous": "precomputed://image64.precomputed?level=3",
        },
        nearly,
    ),
    "labels-pyramid": Work(
        ("tensorstore", "igneous"),
        ("labels64", "labels64.precomputed"),
        "<= 0.7 x the faster",
        {
            "ndbatch": "ndbatch.zarr?level=2",
            "tensorstore": "tensorstore-3.zarr/0",
            "igneous": "precomputed://labels64.precomputed?level=3",
        },
        mostly,
    ),
}


def content(name: str, edge: int, dtype: str) -> Iterator[Array]:
    """Yield slabs of a volume: smooth noise, what of it is bright, or its pieces; the same every time."""
    rng = np.random.default_rng(1)
    grain = rng.normal(size=(edge // 4,) * 3).astype(np.float32)
    smooth = ndimage.gaussian_filter(grain, 6, mode="wrap")
    coarse = (smooth - smooth.mean()) / smooth.std()
    pieces = ndimage.label(coarse > 0)[0] if name.startswith("labels") else coarse
    for first in range(0, edge // 4, THICKNESS // 4):
        slab = pieces[first : first + THICKNESS // 4]
        for axis in range(3):
            slab = np.repeat(slab, 4, axis)
        if name.startswith("labels"):
            yield slab.astype(np.uint64)
        elif name.startswith("mask"):
            yield (slab + rng.normal(0, 0.3, slab.shape).astype(np.float32) > 1.0).astype(np.uint8)
        else:
            noise = rng.integers(-12, 13, slab.shape, dtype=np.int16)
            yield np.clip(slab * 40 + 128 + noise, 0, 255).astype(dtype)


def prepare(folder: Path, name: str, edge: int, dtype: str = "uint8") -> None:
    """Make a volume that the contenders read; images are of `dtype`, masks of uint8, labels of uint64."""
    stem, _, form = name.partition(".")
    chunk = 64 if stem.endswith("64") else 128
    url = f"precomputed://{folder}/{name}?encoding=raw" if form else str(folder / f"{name}.zarr")
    kind = "labels" if stem.startswith(("labels", "mask")) else "image"
    volume = nb.create(
        url,
        shape=(edge,) * 3,
        dtype={"labels": "uint64", "mask": "uint8"}.get(stem.removesuffix("64"), dtype),
        chunks=(chunk,) * 3,
        voxel_size=(1.0, 1.0, 1.0),
        kind=kind,
        overwrite=True,
    )
    waiting: list[Array] = []
    for place, slab in enumerate(content(stem, edge, dtype), 1):
        waiting.append(slab)
        if place * THICKNESS % chunk == 0:
            planes = np.concatenate(waiting)
            low = place * THICKNESS - len(planes)
            volume.write(nb.Box((low, 0, 0), (low + len(planes), edge, edge)), planes)
            waiting.clear()
    volume.close()


def timed(script: str, work: str, folder: Path, *more: str) -> float:
    """Run a contender in a process of its own and return the seconds it tells."""
    python = sys.executable if script in ("ndbatch", "tensorstore") else str(PEERS)
    command = [python, str(HERE / "contenders" / f"with_{script}.py"), work, str(folder), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise SystemExit(f"{script} failed at {work}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def clear(folder: Path, name: str) -> None:
    """Remove what a contender left, levels appended to the source included."""
    for path in folder.glob(f"{name}*"):
        shutil.rmtree(path, ignore_errors=True)


def compare(name: str, edge: int, dtype: str, rounds: int, folder: Path) -> list[str]:
    """Let all contenders do a work in turns; return rows of the table."""
    work = WORKS[name]
    here = [c for c in work.contenders if c == "tensorstore" or PEERS.exists()]
    names = ["floor", "ndbatch", *here]
    seconds: dict[str, list[float]] = {contender: [] for contender in names}
    for volume in work.volumes:
        prepare(folder, volume, edge, dtype)
    for turn in range(rounds):
        for contender in names:
            bare = contender == "floor"
            clear(folder, "tensorstore" if bare else contender)
            if contender == "igneous" and name.endswith("pyramid"):
                prepare(folder, work.volumes[1], edge, dtype)
            took = timed("tensorstore", name, folder, "floor") if bare else timed(contender, name, folder)
            seconds[contender].append(took)
        if turn == 0:
            check(work, here, folder)
    floor = statistics.median(seconds["floor"])
    return [
        f"| {name} | {contender} | {statistics.median(taken):.2f} | {statistics.median(taken) / floor:.2f} | "
        f"{work.aim if contender == 'ndbatch' else ''} |"
        for contender, taken in seconds.items()
    ]


def check(work: Work, contenders: list[str], folder: Path) -> None:
    """Stop where a contender made something else than ndbatch did."""
    for contender in contenders:
        mine, other = (_opened(work.results[name], folder) for name in ("ndbatch", contender))
        if mine.shape != other.shape or not work.same(slabs(mine, other)):
            raise SystemExit(f"{contender} made something else than ndbatch")


def slabs(one: nb.Volume, other: nb.Volume) -> Slabs:
    """Yield the voxels of two volumes, some planes at a time."""
    domain = one.domain
    for first in range(domain.start[0], domain.stop[0], THICKNESS):
        low, high = max(domain.start[0], first - 1), min(domain.stop[0], first + THICKNESS + 1)
        box = nb.Box((low, *domain.start[1:]), (high, *domain.stop[1:]))
        yield one.read(box), other.read(box)


def _opened(url: str, folder: Path) -> nb.Volume:
    scheme, separator, path = url.rpartition("://")
    return nb.open(f"{scheme}{separator}{folder}/{path}")


def main() -> None:
    """Print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument(
        "--edge",
        type=int,
        default=512,
        help="voxels along each side of the cube: a multiple of 128, for pyramids of 512",
    )
    parser.add_argument("--dtype", choices=("uint8", "uint16"), default="uint8", help="voxels of images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where volumes are kept; a temporary folder if not given")
    asked = parser.parse_args()
    if not PEERS.exists():
        print("peers are left out: `make peers` installs them")
    print(f"cubes of {asked.edge} voxels a side, images of {asked.dtype}, medians of {asked.rounds} rounds\n")
    print("| work | by | seconds | x floor | aim |\n|---|---|---:|---:|---|")
    for name in asked.works:
        with tempfile.TemporaryDirectory(prefix="ndbatch-speed-", dir=asked.folder) as folder:
            for row in compare(name, asked.edge, asked.dtype, asked.rounds, Path(folder)):
                print(row, flush=True)


if __name__ == "__main__":
    main()

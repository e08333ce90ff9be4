"""ndbatch beside the fastest of its field and a bare floor: the same work, a fresh process each, one after the other.

    python benchmarks/speed.py [--works transcode components ...] [--edge 512] [--rounds 3]

Peers run in an environment of their own (`make peers`); where it is missing they are left out. Results are compared before
any time is believed. Contenders take turns, so that what else the machine does meets all of them alike; read the ratios,
not the seconds. The floor is tensorstore alone for copies, and half the time of one thread on the array in memory for the rest.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import ndbatch as nb

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-peers/bin/python"
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Work:
    """One work: who does it, on which volumes, the aim as a ratio, and where each leaves its result."""

    contenders: tuple[str, ...]
    """Names of scripts below `contenders`, ndbatch and the floor aside."""
    volumes: tuple[str, ...]
    aim: str
    results: Mapping[str, str]
    """Paths of what must be equal, by contender."""
    same: Callable[[Array, Array], bool] = np.array_equal


def same_partition(one: Array, other: Array) -> bool:
    """Return whether two label images have the same objects, whatever their numbers."""
    pairs = np.unique(np.stack([one.reshape(-1).astype(np.uint64), other.reshape(-1).astype(np.uint64)]), axis=1)
    return bool(pairs.shape[1] == np.unique(pairs[0]).size == np.unique(pairs[1]).size)


def nearly(one: Array, other: Array) -> bool:
    """Return whether two images differ by rounding at most: a level is rounded from the level before."""
    return bool(np.abs(one.astype(int) - other.astype(int)).max() <= 1)


def mostly(one: Array, other: Array) -> bool:
    """Return whether two label images agree but at the borders of objects, where every library breaks ties by its own rule."""
    inside = np.ones(one.shape, bool)
    for labels in (one, other):
        inside &= ndimage.minimum_filter(labels, 3) == ndimage.maximum_filter(labels, 3)
    return bool(inside.mean() > 0.1 and (one == other)[inside].all())


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


def content(name: str, edge: int) -> Array:
    """Return the voxels of a volume: smooth noise, what of it is bright, or its pieces; the same every time."""
    rng = np.random.default_rng(1)
    grain = rng.normal(size=(edge // 4,) * 3).astype(np.float32)
    smooth = ndimage.gaussian_filter(grain, 6, mode="wrap")
    coarse = (smooth - smooth.mean()) / smooth.std()
    if name.startswith("labels"):
        pieces, _ = ndimage.label(coarse > 0)
        return np.kron(pieces.astype(np.uint64), np.ones((4, 4, 4), np.uint64))
    image = np.repeat(np.repeat(np.repeat(coarse, 4, 0), 4, 1), 4, 2)
    if name.startswith("mask"):
        return (image + rng.normal(0, 0.3, image.shape).astype(np.float32) > 1.0).astype(np.uint8)
    noise = rng.integers(-12, 13, image.shape, dtype=np.int16)
    return np.clip(image * 40 + 128 + noise, 0, 255).astype(np.uint8)


def prepare(folder: Path, name: str, edge: int) -> None:
    """Make a volume that the contenders read."""
    stem, _, form = name.partition(".")
    chunk, data = (64 if stem.endswith("64") else 128), content(stem, edge)
    url = f"precomputed://{folder}/{name}?encoding=raw" if form else str(folder / f"{name}.zarr")
    kind = "labels" if stem.startswith(("labels", "mask")) else "image"
    volume = nb.create(
        url,
        shape=data.shape,
        dtype=data.dtype,
        chunks=(chunk,) * 3,
        voxel_size=(1.0, 1.0, 1.0),
        kind=kind,
        overwrite=True,
    )
    volume.write(volume.domain, data)
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


def compare(name: str, edge: int, rounds: int, folder: Path) -> list[str]:
    """Let all contenders do a work in turns; return rows of the table."""
    work = WORKS[name]
    here = [c for c in work.contenders if c == "tensorstore" or PEERS.exists()]
    names = ["floor", "ndbatch", *here]
    seconds: dict[str, list[float]] = {contender: [] for contender in names}
    for volume in work.volumes:
        prepare(folder, volume, edge)
    for turn in range(rounds):
        for contender in names:
            bare = contender == "floor"
            clear(folder, "tensorstore" if bare else contender)
            if contender == "igneous" and name.endswith("pyramid"):
                prepare(folder, work.volumes[1], edge)
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
    mine = _read(work.results["ndbatch"], folder)
    for contender in contenders:
        if not work.same(mine, _read(work.results[contender], folder)):
            raise SystemExit(f"{contender} made something else than ndbatch")


def _read(url: str, folder: Path) -> Array:
    scheme, separator, path = url.rpartition("://")
    volume = nb.open(f"{scheme}{separator}{folder}/{path}")
    return volume.read(volume.domain)


def main() -> None:
    """Print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--edge", type=int, default=512, help="voxels along each side of the cube, a multiple of 128")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where volumes are kept; a temporary folder if not given")
    asked = parser.parse_args()
    if not PEERS.exists():
        print("peers are left out: `make peers` installs them")
    print(f"cubes of {asked.edge} voxels a side, medians of {asked.rounds} rounds\n")
    print("| work | by | seconds | x floor | aim |\n|---|---|---:|---:|---|")
    for name in asked.works:
        with tempfile.TemporaryDirectory(prefix="ndbatch-speed-", dir=asked.folder) as folder:
            for row in compare(name, asked.edge, asked.rounds, Path(folder)):
                print(row, flush=True)


if __name__ == "__main__":
    main()

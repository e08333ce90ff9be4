"""The service under 32 readers and 8 writers at once: no error, no lost write, memory that stays flat.

    python benchmarks/service_load.py [--seconds 60] [--readers 32] [--writers 8]

The service runs in a process of its own. Writers share the chunks: each owns two rows of every chunk, so that a write changes
part of a chunk while others change other parts of it, and each reads its rows back after some writes. Readers read boxes by
ndstore, BOSS and precomputed; rows of one writer must all be of one write. At the end every row must hold what was written last.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

import ndbatch as nb
from ndbatch.geometry import Box

SHAPE, CHUNK = (32, 64, 64), (16, 32, 32)
ROWS = 2
"""Rows along y that a writer owns in every chunk."""


@dataclass
class Load:
    """What readers and writers do for a while, and what came of it."""

    base: str
    readers: int
    writers: int
    seconds: float
    done: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    last: dict[tuple[int, int], int] = field(default_factory=dict)
    """The value written last, by writer and slab."""
    memory: list[int] = field(default_factory=list)

    def volume(self, protocol: str) -> nb.Volume:
        """Open the served volume by a protocol."""
        host = self.base.removeprefix("http://")
        urls = {
            "ndstore": f"ndstore://{host}/lab/em",
            "boss": f"boss://{host}/lab/lab/em?write=replace",
            "precomputed": f"precomputed://{self.base}/precomputed/lab/em",
        }
        return nb.open(urls[protocol])

    def run(self, process: psutil.Process | None = None) -> None:
        """Let all go at once; note the memory of `process` meanwhile."""
        works: list[Callable[[], None]] = [lambda n=n: self.write(n) for n in range(self.writers)]  # type: ignore[misc]
        works += [lambda n=n: self.read(n) for n in range(self.readers)]  # type: ignore[misc]
        threads = [threading.Thread(target=self.guarded, args=(work,)) for work in works]
        self.until = time.monotonic() + self.seconds
        for thread in threads:
            thread.start()
        while process is not None and time.monotonic() < self.until:
            self.memory.append(process.memory_info().rss)
            time.sleep(self.seconds / 60)
        for thread in threads:
            thread.join()

    def guarded(self, work: Callable[[], None]) -> None:
        """Note an error instead of raising it."""
        try:
            work()
        except Exception as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def rows(self, writer: int, slab: int) -> Box:
        """Return the rows of a writer in a slab of chunks: all of x, part of y, part of z."""
        z, y = divmod(slab, SHAPE[1] // CHUNK[1])
        start = y * CHUNK[1] + writer * ROWS
        return Box((z * CHUNK[0] + 1, start, 0), (z * CHUNK[0] + 9, start + ROWS, SHAPE[2]))

    def write(self, writer: int) -> None:
        """Write one's rows with ever new values; look at them at times."""
        volume, number = self.volume("boss" if writer % 2 else "ndstore"), 0
        slabs = (SHAPE[0] // CHUNK[0]) * (SHAPE[1] // CHUNK[1])
        while time.monotonic() < self.until:
            number += 1
            slab = number % slabs
            box, value = self.rows(writer, slab), 1 + number % 65_000
            volume.write(box, np.full(box.shape, value, "uint16"))
            self.last[writer, slab] = value
            self.done["writes"] += 1
            if number % 5 == 0 and not (volume.read(box) == value).all():
                self.errors.append(f"writer {writer} does not find what it wrote")

    def read(self, reader: int) -> None:
        """Read slabs by one of the protocols; the rows of a writer are from one write, or one before and one after."""
        volume = self.volume(("ndstore", "boss", "precomputed")[reader % 3])
        dice = np.random.default_rng(reader)
        while time.monotonic() < self.until:
            writer, slab = int(dice.integers(self.writers)), int(dice.integers(4))
            found = volume.read(self.rows(writer, slab))
            for x in range(0, SHAPE[2], CHUNK[2]):  # a chunk is changed as a whole, never half
                if (found[:, :, x : x + CHUNK[2]] != found[0, 0, x]).any():
                    self.errors.append(f"reader {reader} ({volume.scheme}) saw half a write")
            self.done["reads"] += 1

    def lost(self) -> int:
        """Return how many rows do not hold what was written last."""
        volume = self.volume("ndstore")
        return sum(not (volume.read(self.rows(*key)) == value).all() for key, value in self.last.items())


def filled(folder: Path) -> None:
    """Make the volume that is served."""
    (folder / "lab").mkdir()
    volume = nb.create(
        f"{folder}/lab/em.zarr", shape=SHAPE, dtype="uint16", chunks=CHUNK, voxel_size={"z": 1, "y": 1, "x": 1}
    )
    volume.write(volume.domain, np.ones(SHAPE, "uint16"))


def main() -> None:
    """Run the load and print what came of it."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--readers", type=int, default=32)
    options.add_argument("--writers", type=int, default=8)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        filled(Path(name))
        code = (
            "import sys; from pathlib import Path; from ndbatch.testing.serving import serving; import time\n"
            "with serving(Path(sys.argv[1])) as (url, _): print(url, flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            load = Load(server.stdout.readline().strip(), given.readers, given.writers, given.seconds)
            load.run(psutil.Process(server.pid))
            lost = load.lost()
            server.communicate()
    third = len(load.memory) // 3
    early, late = (max(part) / 2**20 for part in (load.memory[third : 2 * third], load.memory[2 * third :]))
    print(f"{given.readers} readers, {given.writers} writers, {given.seconds:g} s: {dict(load.done)}")
    print(f"errors: {len(load.errors)} {Counter(load.errors).most_common(3)}; lost writes: {lost}")
    print(f"memory of the service: at most {early:.0f} MiB in the second third, {late:.0f} MiB in the last")
    sys.exit(bool(load.errors or lost or late > early * 1.1 + 16))


if __name__ == "__main__":
    main()

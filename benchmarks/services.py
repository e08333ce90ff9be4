"""512 chunks of 64^3 voxels by HTTP with 20 ms of latency for each request: how many a second, lazily and through a run.

    python benchmarks/services.py [--latency 0.02] [--rounds 3] [--workers 2] [--kind image|labels]

A process of its own answers from memory after the latency, so that the reader is measured and not the server; the last rows read
the same chunks from `ndbatch serve`, which computes them, with the same latency before it; their CPU time is that of reader and
service. The voxels are EM-like noise, uint8: a chunk is 256 KiB raw; or cells, uint64, 2 MiB raw. What is read is compared with
what was written.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import ndbatch as nb
from ndbatch.events import StageEnded

SHAPE, CHUNK = (512, 512, 512), (64, 64, 64)
CHUNKS = 512
AIM = 600


class Memory(asyncio.Protocol):
    """Answers GET and HEAD from `files` after `latency` seconds; requests of one connection one after the other."""

    files: dict[str, bytes]
    latency: float

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin a connection."""
        self.transport: Any = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        """Answer every whole request, later."""
        self.rest += data
        while b"\r\n\r\n" in self.rest:
            head, _, self.rest = self.rest.partition(b"\r\n\r\n")
            asyncio.get_running_loop().call_later(self.latency, self.answer, head)

    def answer(self, head: bytes) -> None:
        """Answer one request."""
        method, path, _ = head.split(b"\r\n")[0].split(b" ")
        body = self.files.get(path.decode())
        status = b"200 OK" if body is not None else b"404 Not Found"
        body = body or b""
        self.transport.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n\r\n" % len(body))
        if method == b"GET":
            self.transport.write(body)


async def serve_memory(folder: Path, latency: float) -> None:
    """Serve the files below `folder`, read once, and print the port."""
    Memory.files = {f"/{p.relative_to(folder)}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    Memory.latency = latency
    server = await asyncio.get_running_loop().create_server(Memory, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def serve_volumes(folder: Path, latency: float) -> None:
    """Serve the volumes below `folder` as `ndbatch serve` does, each answer `latency` seconds late, and print the port."""
    from ndbatch.server import running
    from ndbatch.server.scan import fill
    from ndbatch.server.service import Access, Service

    service = Service(folder, Access("nobody"))
    fill(service)
    inner = running.watched(service)

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(latency)
        await inner(scope, receive, send)

    bound = running.listening("127.0.0.1", 0)
    print(bound.getsockname()[1], flush=True)
    running.server(late).run(sockets=[bound])


@contextlib.contextmanager
def serving(kind: str, folder: Path, latency: float) -> Iterator[tuple[str, psutil.Process]]:
    """Serve from another process; yield its address and the process."""
    command = [sys.executable, __file__, "--serve", kind, "--folder", str(folder), "--latency", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}", psutil.Process(process.pid)
        finally:
            process.terminate()


def lazily(url: str, threads: int) -> tuple[float, bool]:
    """Read all by `Volume.dask()` in `threads` threads; return seconds, and whether the voxels are right."""
    volume = nb.open(url)
    lazy = volume.dask().sum(dtype="uint64")
    begun = time.perf_counter()
    total = lazy.compute(scheduler="threads", num_workers=threads)
    return time.perf_counter() - begun, int(total) == TOTAL[0]


def at_once(url: str) -> tuple[float, bool]:
    """Read all in eight boxes of 64 chunks."""
    volume = nb.open(url)
    begun = time.perf_counter()
    total = sum(int(volume[z : z + 64].sum(dtype="uint64")) for z in range(0, 512, 64))
    return time.perf_counter() - begun, total == TOTAL[0]


def by_a_run(url: str, workers: int, side: int) -> tuple[float, bool]:
    """Threshold all by a run, `side` voxels a block; the seconds are those of the stage, its local writes among them."""
    with tempfile.TemporaryDirectory() as folder:
        seconds: list[float] = []
        result = nb.run(
            {
                "name": "read",
                "inputs": {"image": url},
                "steps": [{"threshold": {"input": "image", "value": 250, "output": "mask"}}],
                "outputs": {"mask": {"url": f"{folder}/mask.zarr", "chunks": {"z": 64, "y": 64, "x": 64}}},
                "blocks": {"z": side, "y": side, "x": side},
                "cluster": {"kind": "threads", "workers": workers},
                "directory": f"{folder}/run",
            },
            report=False,
            observers=[lambda event: seconds.append(event.seconds) if isinstance(event, StageEnded) else None],
        )
        mask = nb.open(f"{folder}/mask.zarr")
        right = result.status == "done" and int(mask[:64].sum(dtype="uint64")) * 8 == TOTAL[1]
        return seconds[0], right


TOTAL = [0, 0]
"""The sum of all voxels, and the number of those above the threshold."""


def main() -> None:
    """Measure and print a table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--serve", choices=("memory", "volumes"))
    options.add_argument("--folder", type=Path)
    options.add_argument("--latency", type=float, default=0.02)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--kind", choices=("image", "labels"), default="image")
    given = options.parse_args()
    if given.serve == "memory":
        asyncio.run(serve_memory(given.folder, given.latency))
    elif given.serve == "volumes":
        serve_volumes(given.folder, given.latency)
    else:
        measure(given.latency, given.rounds, given.workers, given.kind)


def content(kind: str) -> Any:
    """Return voxels of EM-like noise, or of cells of about 30 voxels."""
    if kind == "labels":
        z, y, x = np.ogrid[:64, :512, :512]
        wave = (6 * np.sin(z / 11) + 6 * np.sin(y / 13)).astype(int)
        cells = ((z + wave) // 30 + 1) * 2**20 + ((y + wave) // 33 + 1) * 2**10 + (x + wave) // 35 + 2
        return np.tile(cells.astype("uint64"), (8, 1, 1))
    noise = np.random.default_rng(5).normal(128, 30, (64, 512, 512))
    return np.tile(noise.clip(0, 255).astype("uint8"), (8, 1, 1))


def measure(latency: float, rounds: int, workers: int, kind: str) -> None:
    """Print chunks a second of every way to read; what is imported to read is imported before."""
    import dask.array

    dask.array.zeros(1).compute()
    fast = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=fast) as name:
        folder, data = Path(name), content(kind)
        TOTAL[:] = [int(data.sum(dtype="uint64")), int((data > 250).sum())]
        (folder / "lab").mkdir()
        for url in (f"{folder}/lab/em.zarr", f"precomputed://{folder}/em"):
            volume = nb.create(url, shape=SHAPE, dtype=data.dtype, kind=kind, chunks=CHUNK)
            volume.write(volume.domain, data)
        what = f"{CHUNKS} chunks of 64^3, {data.dtype}, {latency * 1000:.0f} ms a request, {workers} workers"
        print(f"{what} (aim: {AIM} chunks a second), load {os.getloadavg()[0]:.1f}")
        for server, urls in (
            ("memory", {"precomputed": "precomputed://{}/em", "zarr": "zarr://{}/lab/em.zarr"}),
            ("volumes", {"precomputed": "precomputed://{}/precomputed/lab/em", "zarr": "zarr://{}/zarr/lab/em"}),
        ):
            with serving(server, folder, latency) as (base, process):
                for form, pattern in urls.items():
                    url = pattern.format(base)
                    ways = {
                        "dask, 32 threads": lambda url=url: lazily(url, 32),
                        "dask, 8 threads": lambda url=url: lazily(url, 8),
                        "boxes of 64 chunks": lambda url=url: at_once(url),
                    }
                    if kind == "image":
                        ways["run, blocks of 128"] = lambda url=url: by_a_run(url, workers, 128)
                        ways["run, blocks of 64"] = lambda url=url: by_a_run(url, workers, 64)
                    for way, read in ways.items():
                        cpu = time.process_time() + sum(process.cpu_times()[:2])
                        found = [read() for _ in range(rounds)]
                        cpu = (time.process_time() + sum(process.cpu_times()[:2]) - cpu) / rounds / CHUNKS * 1000
                        right = all(ok for _, ok in found)
                        rate = CHUNKS / statistics.median(seconds for seconds, _ in found)
                        said = "right" if right else "WRONG"
                        print(
                            f"{server:8} {form:12} {way:20} {rate:7.0f}  {cpu:5.2f} ms CPU a chunk  {said}", flush=True
                        )


if __name__ == "__main__":
    main()

"""Volumes read from and uploaded to a service with latency: ndbatch beside the service's published client.

    python benchmarks/clients.py boss|ndstore|dvid [read|write] [--kind image|labels] [--latency 0.02] [--rounds 3]

512 chunks of 64 x 64 x 64 voxels (images uint8, labels uint64) at `ndbatch serve`, in a process of its own that waits before
each answer. Every contender is a fresh process, they take turns, and what each read or stored is checked. Contenders are intern
(BOSS), ndio (ndstore) and plain requests in 16 threads (DVID, which has no client that runs on this Python). Seconds are those
of the work alone: interpreters, imports and worker processes that start before the first request are left out for all of
them. CPU is that of the service, in milliseconds a chunk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent / "contenders"))
import published

EDGE, CHUNK = 512, 64
CHUNKS = (EDGE // CHUNK) ** 3
THREADS = 32
"""Threads of `Volume.dask().compute(num_workers=...)`: dask counts cores, and these threads wait for the network."""


MADE = "made"
"""What the name of a channel ends in that a run made."""


def truth(kind: str) -> Any:
    """Return the voxels, z, y, x: noise over a gradient, as a micrograph compresses (little); or cells of about 30 voxels."""
    if kind == "image":
        noise = np.random.default_rng(0).integers(0, 64, (EDGE, EDGE, EDGE), "uint8")
        noise += np.arange(EDGE, dtype="uint8")[:, None, None] // 4
        return noise
    z, y, x = np.ogrid[:EDGE, :EDGE, :EDGE]
    wave = (6 * np.sin(z / 11) + 6 * np.sin(y / 13)).astype(int)
    return (((z + wave) // 30 + 1) * 2**20 + ((y + wave) // 33 + 1) * 2**10 + (x + wave) // 35 + 2).astype("uint64")


def serve(folder: str, latency: float) -> None:
    """Serve a folder until killed, each answer `latency` seconds late; print the address first."""
    from ndbatch.server.running import listening, server
    from ndbatch.server.scan import fill
    from ndbatch.server.service import Access, Service, application

    service = Service(Path(folder), Access("anyone"))
    fill(service)
    app = application(service)

    async def late(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(latency)
        await app(scope, receive, send)

    bound = listening("127.0.0.1", 0)
    print(f"http://127.0.0.1:{bound.getsockname()[1]}", flush=True)
    server(late).run(sockets=[bound])


def address(scheme: str, url: str, channel: str) -> str:
    """Return the address of a channel at a service."""
    host = url.removeprefix("http://")
    if scheme == "dvid":
        return f"dvid://{host}/{published.dvid_root(url)}/{channel}"
    return {"boss": f"boss://{host}/lab/embryo/{channel}", "ndstore": f"ndstore://{host}/embryo/{channel}"}[scheme]


# -- contenders: each returns seconds and what was read, or None where it wrote -----------------------------------------------


def read_lazily(
    scheme: str, url: str, channel: str, kind: str, chunks: tuple[int, ...] | None = None
) -> tuple[float, Any]:
    """Read all of a volume through `Volume.dask()`, in the chunks of the service or in those of `chunks`."""
    import dask.array

    import ndbatch as nb

    volume = nb.open(address(scheme, url, channel))
    dask.array.zeros(1).compute()  # imports all that computes
    begun = time.perf_counter()
    found = volume.dask(chunks).compute(num_workers=THREADS)
    return time.perf_counter() - begun, found


def write_lazily(scheme: str, url: str, channel: str, kind: str) -> tuple[float, Any]:
    """Upload a dask array by `nb.store`."""
    import dask
    import dask.array as da

    import ndbatch as nb

    lazy = da.from_array(truth(kind), chunks=CHUNK, name=False)
    volume = nb.open(address(scheme, url, channel))
    da.zeros(1).compute()
    begun = time.perf_counter()
    with dask.config.set(num_workers=THREADS):
        nb.store(lazy, volume)
    return time.perf_counter() - begun, None


def copied(source: str, target: dict[str, Any], folder: str) -> float:
    """Copy a volume with a run, in blocks that the planner chooses; return seconds from the start of its first stage."""
    import ndbatch as nb
    from ndbatch.events import Event, StageStarted

    begun = 0.0

    def watch(event: Event) -> None:
        nonlocal begun
        if isinstance(event, StageStarted) and not begun:
            begun = time.perf_counter()

    config = {
        "name": "copy",
        "inputs": {"image": source},
        "steps": [{"copy": {"input": "image", "output": "copied"}}],
        "outputs": {"copied": target},
        "cluster": {"kind": "threads", "workers": THREADS},
        "directory": f"{folder}/run",
    }
    result = nb.run(config, observers=[watch], report=False)
    assert result.status == "done", result
    return time.perf_counter() - begun


def read_by_run(scheme: str, url: str, channel: str, kind: str) -> tuple[float, Any]:
    """Copy a volume of the service to a folder."""
    import ndbatch as nb

    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        target = {"url": f"{folder}/copied.zarr", "create": True, "chunks": {"z": CHUNK, "y": CHUNK, "x": CHUNK}}
        seconds = copied(address(scheme, url, channel), target, folder)
        return seconds, nb.open(f"{folder}/copied.zarr")[...]


def write_by_run(scheme: str, url: str, channel: str, kind: str) -> tuple[float, Any]:
    """Copy a volume of a folder into a channel that the run makes, so that its chunks are those of the service."""
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        place = f"{folder}/source.zarr"
        filled(place, kind, truth(kind))
        return copied(place, {"url": address(scheme, url, f"{channel}{MADE}"), "create": True}, folder), None


OURS: dict[str, dict[str, Callable[[str, str, str, str], tuple[float, Any]]]] = {
    "read": {
        "ndbatch dask, 64^3": partial(read_lazily, chunks=(CHUNK,) * 3),
        "ndbatch dask": read_lazily,
        "ndbatch run": read_by_run,
    },
    "write": {"ndbatch store": write_lazily, "ndbatch run": write_by_run},
}


def contend(told: Work, name: str, url: str, channel: str) -> None:
    """Be one contender: work, check what was read, print the seconds."""
    data = truth(told.kind)
    if name in OURS[told.way]:
        work = OURS[told.way][name]
        seconds, found = work(told.scheme, url, channel, told.kind)
    else:
        seconds, found = published.CLIENTS[told.scheme][told.way][name](url, channel, data)
    if told.way == "read":
        assert np.array_equal(found, data), f"{name} read something else"
    print(json.dumps(seconds))


# -- the comparison ------------------------------------------------------------------------------------------------------------


@dataclass
class Work:
    """What is compared: a service, a way (read or write), a kind of voxels."""

    scheme: str
    way: str
    kind: str
    latency: float
    rounds: int


@dataclass
class Taken:
    """What one contender took: seconds of the work, and CPU seconds of the service, one of each a round."""

    seconds: list[float] = field(default_factory=list)
    service: list[float] = field(default_factory=list)


def memory() -> str | None:
    """Return a folder in memory, or None where there is none."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def filled(place: Path | str, kind: str, data: Any = None) -> Any:
    """Make a volume, chunks of 64^3, and write `data`, if any; return it."""
    import ndbatch as nb

    volume = nb.create(
        place,
        shape=(EDGE,) * 3,
        dtype="uint8" if kind == "image" else "uint64",
        kind=kind,
        chunks=(CHUNK,) * 3,
        voxel_size=(0.04, 0.004, 0.004),
    )
    if data is not None:
        volume.write(volume.domain, data)
    return volume


@contextmanager
def served(folder: str, latency: float) -> Iterator[tuple[str, psutil.Process]]:
    """Serve a folder from another process; yield its address and the process."""
    command = [sys.executable, __file__, "serve", "--folder", folder, "--latency", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        try:
            yield service.stdout.readline().strip(), psutil.Process(service.pid)
        finally:
            service.kill()


def compare(told: Work) -> dict[str, Taken]:
    """Return what each contender took, in turns."""
    import ndbatch as nb

    names = [*OURS[told.way], *published.CLIENTS[told.scheme][told.way]]
    taken = {name: Taken() for name in names}
    data = truth(told.kind)
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        place = Path(folder) / "lab" / "embryo"
        if told.way == "read":
            filled(place / "em.zarr", told.kind, data)
        else:
            for turn in range(told.rounds * len(names)):
                filled(place / f"up{turn}.zarr", told.kind)
        with served(folder, told.latency) as (url, service):
            for turn in range(told.rounds * len(names)):
                name = names[turn % len(names)]
                channel = "em" if told.way == "read" else f"up{turn}"
                before = sum(service.cpu_times()[:2])
                options = ["--kind", told.kind, "--contender", name, "--url", url, "--channel", channel]
                command = [sys.executable, __file__, told.scheme, told.way, *options]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                taken[name].seconds.append(json.loads(done.stdout.splitlines()[-1]))
                taken[name].service.append(sum(service.cpu_times()[:2]) - before)
                if told.way == "write":
                    made = MADE if name == "ndbatch run" else ""
                    stored = nb.open(address(told.scheme, url, f"{channel}{made}"))[...]
                    assert np.array_equal(stored, data), f"{name} stored something else"
    return taken


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("service", choices=[*published.CLIENTS, "serve"])
    parser.add_argument("way", nargs="?", choices=list(OURS), default="read")
    parser.add_argument("--kind", choices=("image", "labels"), default="image")
    parser.add_argument("--latency", type=float, default=0.02)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder")
    parser.add_argument("--contender")
    parser.add_argument("--url")
    parser.add_argument("--channel")
    given = parser.parse_args()
    if given.service == "serve":
        serve(given.folder, given.latency)
        return
    told = Work(given.service, given.way, given.kind, given.latency, given.rounds)
    if given.contender:
        contend(told, given.contender, given.url, given.channel)
        return
    what = f"{CHUNKS} chunks of {CHUNK}^3, {told.kind}, {told.way} at {told.scheme}"
    print(f"{what}, {told.latency * 1e3:g} ms, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name, one in compare(told).items():
        middle, each = statistics.median(one.seconds), ", ".join(f"{s:.2f}" for s in one.seconds)
        service = statistics.median(one.service) / CHUNKS * 1e3
        print(f"{name:28} {middle:6.2f} s {CHUNKS / middle:5.0f} chunks/s  service {service:5.2f} ms CPU  ({each})")


if __name__ == "__main__":
    main()

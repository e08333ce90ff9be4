"""Reading a volume from a service with latency: ndbatch beside the service's published client.

    python benchmarks/clients.py boss [--latency 0.02] [--rounds 3]

512 chunks of 64 x 64 x 64 voxels, uint8, from `ndbatch serve` in a process of its own that waits before each answer. Every
contender is a fresh process, they take turns, and each checks what it read. Seconds are those of reading alone: interpreters,
imports and worker processes that start before the first request are left out for all of them.
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
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

EDGE, CHUNK = 512, 64
CHUNKS = (EDGE // CHUNK) ** 3
THREADS = 16
"""Threads of `Volume.dask().compute(num_workers=...)`: dask counts cores, and these threads wait for the network."""


def truth() -> Any:
    """Return the voxels, z, y, x: noise over a gradient, as an electron micrograph compresses (little)."""
    noise = np.random.default_rng(0).integers(0, 64, (EDGE, EDGE, EDGE), "uint8")
    noise += np.arange(EDGE, dtype="uint8")[:, None, None] // 4
    return noise


def serve(folder: str, latency: float) -> None:
    """Serve a folder until killed, each answer `latency` seconds late; print the address first."""
    import uvicorn

    from ndbatch.server.running import listening
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
    config = uvicorn.Config(late, log_level="warning", access_log=False, lifespan="off", timeout_keep_alive=75)
    uvicorn.Server(config).run(sockets=[bound])


# -- contenders: each returns seconds and what was read ------------------------------------------------------------------------


def by_dask(scheme: str, url: str) -> tuple[float, Any]:
    """Read all of a volume through `Volume.dask()`."""
    import dask.array  # noqa: F401

    import ndbatch as nb

    volume = nb.open(address(scheme, url))
    begun = time.perf_counter()
    found = volume.dask({"z": CHUNK, "y": CHUNK, "x": CHUNK}).compute(num_workers=THREADS)
    return time.perf_counter() - begun, found


def by_run(scheme: str, url: str) -> tuple[float, Any]:
    """Copy a volume with a run, in blocks that the planner chooses; from the start of its first stage to the end of the run."""
    import ndbatch as nb
    from ndbatch.events import Event, StageStarted

    begun = 0.0

    def watch(event: Event) -> None:
        nonlocal begun
        if isinstance(event, StageStarted) and not begun:
            begun = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        config = {
            "name": "read",
            "inputs": {"image": address(scheme, url)},
            "steps": [{"copy": {"input": "image", "output": "copied"}}],
            "outputs": {"copied": {"url": f"{folder}/copied.zarr", "create": True}},
            "cluster": {"kind": "threads", "workers": 16},
            "directory": f"{folder}/run",
        }
        result = nb.run(config, observers=[watch], report=False)
        seconds = time.perf_counter() - begun
        assert result.status == "done", result
        return seconds, nb.open(f"{folder}/copied.zarr")[...]


def by_intern(scheme: str, url: str) -> tuple[float, Any]:
    """Read all of a channel with intern, in as many processes as it takes by itself."""
    warnings.simplefilter("ignore")
    from intern.remote.boss import BossRemote

    remote = BossRemote({"protocol": "http", "host": url.removeprefix("http://"), "token": "public"})
    channel = remote.get_channel("em", "lab", "embryo")
    whole = [0, EDGE]
    begun = time.perf_counter()
    found = remote.get_cutout(channel, 0, whole, whole, whole, parallel=True, chunk_size=(CHUNK, CHUNK, CHUNK))
    return time.perf_counter() - begun, found


def address(scheme: str, url: str) -> str:
    """Return the address of the volume at a service."""
    host = url.removeprefix("http://")
    return {"boss": f"boss://{host}/lab/embryo/em"}[scheme]


CONTENDERS: dict[str, dict[str, Callable[[str, str], tuple[float, Any]]]] = {
    "boss": {"ndbatch dask": by_dask, "ndbatch run": by_run, "intern parallel": by_intern},
}


def contend(scheme: str, name: str, url: str) -> None:
    """Be one contender: read, check, print the seconds."""
    seconds, found = CONTENDERS[scheme][name](scheme, url)
    assert np.array_equal(found, truth()), f"{name} read something else"
    print(json.dumps(seconds))


def compare(scheme: str, latency: float, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each contender, in turns."""
    import ndbatch as nb

    taken: dict[str, list[float]] = {name: [] for name in CONTENDERS[scheme]}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "lab" / "embryo" / "em.zarr"
        volume = nb.create(
            place, shape=(EDGE,) * 3, dtype="uint8", chunks=(CHUNK,) * 3, voxel_size=(0.04, 0.004, 0.004)
        )
        volume.write(volume.domain, truth())
        this = [sys.executable, __file__]
        service = subprocess.Popen(
            [*this, "serve", folder, "--latency", str(latency)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert service.stdout is not None
            url = service.stdout.readline().strip()
            for _ in range(rounds):
                for name, seconds in taken.items():
                    done = subprocess.run(
                        [*this, scheme, "--contender", name, "--url", url],
                        stdout=subprocess.PIPE,
                        text=True,
                        check=True,
                    )
                    seconds.append(json.loads(done.stdout.splitlines()[-1]))
        finally:
            service.kill()
            service.wait()
    return taken


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("service", choices=[*CONTENDERS, "serve"])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--latency", type=float, default=0.02)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender")
    parser.add_argument("--url")
    given = parser.parse_args()
    if given.service == "serve":
        serve(given.folder, given.latency)
    elif given.contender:
        contend(given.service, given.contender, given.url)
    else:
        print(f"{CHUNKS} chunks of {CHUNK}^3 from {given.service}, {given.latency * 1e3:g} ms, {os.cpu_count()} cores")
        for name, seconds in compare(given.service, given.latency, given.rounds).items():
            middle = statistics.median(seconds)
            print(
                f"{name:16} {middle:6.2f} s  {CHUNKS / middle:5.0f} chunks/s  ({', '.join(f'{s:.2f}' for s in seconds)})"
            )


if __name__ == "__main__":
    main()

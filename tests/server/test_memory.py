"""Memory of the service: threads share it, and what is free goes back when nobody asks."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, sys, threading
from ndbatch.server.memory import share_arenas

if sys.argv[1] == "shared":
    share_arenas()
together = threading.Barrier(16)

def work():
    together.wait()
    kept = [bytes(10_000) for _ in range(100)]
    together.wait()

threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""

RETURNED = """
import asyncio, resource, sys, time
from pathlib import Path
from ndbatch.server.memory import GivesBack

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

pins, quiet = [], asyncio.Event()

async def app(scope, receive, send):
    if scope["waits"]:
        await quiet.wait()
        return
    held = []
    for _ in range(1000):
        held.append(bytes(100_000))
        pins.append(bytes(1000))  # behind it in the heap, so that nothing before it is at the heap's end

async def main():
    application = GivesBack(app) if sys.argv[1] == "given" else app
    waiting = asyncio.create_task(application({"waits": True}, None, None))
    await application({"waits": False}, None, None)
    full = resident()
    await asyncio.sleep(2)
    busy = resident()
    quiet.set()
    await waiting
    until = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < until and resident() > full - 50:
        await asyncio.sleep(0.1)
    print(full - busy, full - resident())

asyncio.run(main())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's; this is another C library")
@pytest.mark.parametrize(
    ("kind", "environment", "fewest", "most"),
    [("shared", {}, 1, 2), ("plain", {}, 3, 99), ("shared", {"MALLOC_ARENA_MAX": "4"}, 3, 4)],
)
def test_threads_share_two_arenas_unless_told_otherwise(
    kind: str, environment: dict[str, str], fewest: int, most: int
) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind], env=clean | environment, capture_output=True, text=True, check=True
    )
    assert fewest <= told.stdout.count("<heap nr=") <= most


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="what is free is asked of glibc; this is another C library"
)
def test_memory_goes_back_once_nobody_asks() -> None:
    """A process that held 95 MiB keeps them while another request is under way, and gives them back after it."""
    assert returned("plain", 2) == (pytest.approx(0, abs=10), pytest.approx(0, abs=10))
    assert returned("given", 180) == (pytest.approx(0, abs=10), pytest.approx(95, abs=45))


def returned(kind: str, seconds: float) -> tuple[float, float]:
    """Return the MiB given back while a request is under way, and those within `seconds` of it."""
    command = [sys.executable, "-c", RETURNED, kind, str(seconds)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    busy, idle = map(float, told.stdout.split())
    return busy, idle

"""Memory of the service: threads share it."""

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

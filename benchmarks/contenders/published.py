"""The published clients of services, as `benchmarks/clients.py` lets them contend: reads and uploads of 512 chunks of 64^3.

Each function takes the service's address, a channel and its voxels (z, y, x), and returns the seconds that the work took and
what it read, None where it wrote. intern 1.4.2 and ndio 1.1.6 are unmodified; to ndio is given from outside what today's Python
lacks: `numpy.float`, and `getURL` in the module that calls it as if it were no method.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import numpy as np

EDGE, CHUNK = 512, 64
THREADS = 16


def corners() -> Iterator[tuple[int, int, int]]:
    """Yield the first voxel of every chunk, z, y, x."""
    yield from itertools.product(range(0, EDGE, CHUNK), repeat=3)


# -- intern, for BOSS ----------------------------------------------------------------------------------------------------------


def intern_remote(url: str, channel: str) -> tuple[Any, Any]:
    """Return intern's remote and the resource of a channel."""
    warnings.simplefilter("ignore")
    from intern.remote.boss import BossRemote

    remote = BossRemote({"protocol": "http", "host": url.removeprefix("http://"), "token": "public"})
    return remote, remote.get_channel(channel, "lab", "embryo")


def intern_chunks(url: str, channel: str, data: Any) -> tuple[float, Any]:
    """Read chunk by chunk, in as many processes as intern takes by itself."""
    remote, where = intern_remote(url, channel)
    whole, chunk = [0, EDGE], (CHUNK,) * 3
    begun = time.perf_counter()
    found = remote.get_cutout(where, 0, whole, whole, whole, parallel=True, chunk_size=chunk)
    return time.perf_counter() - begun, found


def intern_whole(url: str, channel: str, data: Any) -> tuple[float, Any]:
    """Read all in the requests that intern chooses, 512 x 512 x 96 voxels each."""
    remote, where = intern_remote(url, channel)
    whole = [0, EDGE]
    begun = time.perf_counter()
    found = remote.get_cutout(where, 0, whole, whole, whole, parallel=True)
    return time.perf_counter() - begun, found


def intern_upload_chunks(url: str, channel: str, data: Any) -> tuple[float, Any]:
    """Upload chunk by chunk, one after the other, since intern has no parallel upload."""
    remote, where = intern_remote(url, channel)
    begun = time.perf_counter()
    for z, y, x in corners():
        block = np.ascontiguousarray(data[z : z + CHUNK, y : y + CHUNK, x : x + CHUNK])
        remote.create_cutout(where, 0, [x, x + CHUNK], [y, y + CHUNK], [z, z + CHUNK], block)
    return time.perf_counter() - begun, None


def intern_upload_whole(url: str, channel: str, data: Any) -> tuple[float, Any]:
    """Upload all by one call; intern cuts it into requests of 1024 x 1024 x 32 voxels."""
    remote, where = intern_remote(url, channel)
    whole = [0, EDGE]
    begun = time.perf_counter()
    remote.create_cutout(where, 0, whole, whole, whole, data)
    return time.perf_counter() - begun, None


# -- ndio, for ndstore ---------------------------------------------------------------------------------------------------------


def ndio_remote(url: str) -> Any:
    """Return ndio's remote."""
    warnings.simplefilter("ignore")
    setattr(np, "float", float)  # noqa: B010, numpy no longer has it, and linters rewrite a plain assignment
    import requests

    import_module("ndio.remote.neurodata")
    module: Any = sys.modules["ndio.remote.neurodata"]  # the package gives the class that name

    def get(address: str, token: str = "placeholder") -> Any:
        return requests.get(address, headers={"Authorization": f"Token {token}"}, timeout=180)

    module.getURL = get
    host = url.removeprefix("http://")
    options = {"protocol": "http", "meta_root": f"{host}/", "meta_protocol": "http", "check_tokens": True}
    return module.neurodata("placeholder", hostname=host, **options)


def ndio_chunks(url: str, channel: str, data: Any) -> tuple[float, Any]:
    """Read in blocks of 64^3, one after the other, as ndio does."""
    remote = ndio_remote(url)
    spans = (0, EDGE) * 3
    begun = time.perf_counter()
    found = remote.get_cutout("embryo", channel, *spans, resolution=0, block_size=(CHUNK,) * 3)
    return time.perf_counter() - begun, np.transpose(found, (2, 1, 0)) if transposed(found, data) else found


def ndio_whole(url: str, channel: str, data: Any) -> tuple[float, Any]:
    """Read all in the blocks that ndio chooses."""
    remote = ndio_remote(url)
    spans = (0, EDGE) * 3
    begun = time.perf_counter()
    found = remote.get_cutout("embryo", channel, *spans, resolution=0)
    return time.perf_counter() - begun, np.transpose(found, (2, 1, 0)) if transposed(found, data) else found


def transposed(found: Any, data: Any) -> bool:
    """Return whether an array of ndio is x, y, z, as it says, where `data` is z, y, x."""
    return bool((found[:2, :3, :4] != data[:2, :3, :4]).any())


def ndio_upload_chunks(url: str, channel: str, data: Any) -> tuple[float, Any]:
    """Upload chunk by chunk, one after the other."""
    remote = ndio_remote(url)
    begun = time.perf_counter()
    for z, y, x in corners():
        block = data[z : z + CHUNK, y : y + CHUNK, x : x + CHUNK]
        assert remote.post_cutout("embryo", channel, x, y, z, np.transpose(block, (2, 1, 0)))
    return time.perf_counter() - begun, None


def ndio_upload_whole(url: str, channel: str, data: Any) -> tuple[float, Any]:
    """Upload all by one call, in the blocks that ndio chooses."""
    remote = ndio_remote(url)
    begun = time.perf_counter()
    assert remote.post_cutout("embryo", channel, 0, 0, 0, np.transpose(data, (2, 1, 0)))
    return time.perf_counter() - begun, None


# -- plain requests, for DVID ----------------------------------------------------------------------------------------------------


def dvid_root(url: str) -> str:
    """Return the version of the only repository of a service."""
    with urllib.request.urlopen(f"{url}/api/repos/info", timeout=60) as answer:
        return str(next(iter(json.load(answer))))


class Plain:
    """`requests` with a session a thread, 16 threads: what a script does by hand with the raw voxels of DVID."""

    def __init__(self, url: str, channel: str, data: Any) -> None:
        self.base, self.data = f"{url}/api/node/{dvid_root(url)}/{channel}", data
        self.result = np.empty(data.shape, data.dtype)
        self.kept = threading.local()

    def session(self) -> Any:
        """Return the session of this thread."""
        import requests

        if not hasattr(self.kept, "session"):
            self.kept.session = requests.Session()
        return self.kept.session

    def place(self, z: int, y: int, x: int) -> tuple[str, Any]:
        """Return the address of a chunk, and where it is in an array."""
        path = f"{self.base}/raw/0_1_2/{CHUNK}_{CHUNK}_{CHUNK}/{x}_{y}_{z}"
        return path, tuple(slice(first, first + CHUNK) for first in (z, y, x))

    def read(self, corner: tuple[int, int, int]) -> None:
        """Read one chunk."""
        path, where = self.place(*corner)
        answer = self.session().get(path, timeout=180)
        answer.raise_for_status()
        self.result[where] = np.frombuffer(answer.content, self.data.dtype).reshape((CHUNK,) * 3)

    def write(self, corner: tuple[int, int, int]) -> None:
        """Write one chunk."""
        path, where = self.place(*corner)
        answer = self.session().post(f"{path}?mutate=true", data=self.data[where].tobytes(), timeout=180)
        answer.raise_for_status()

    def all(self, work: Callable[[tuple[int, int, int]], None]) -> float:
        """Do one thing to all chunks; return the seconds."""
        begun = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(work, corners()))
        return time.perf_counter() - begun


def plain_read(url: str, channel: str, data: Any) -> tuple[float, Any]:
    """Read raw chunks."""
    plain = Plain(url, channel, data)
    return plain.all(plain.read), plain.result


def plain_write(url: str, channel: str, data: Any) -> tuple[float, Any]:
    """Write raw chunks."""
    plain = Plain(url, channel, data)
    return plain.all(plain.write), None


Client = Callable[[str, str, Any], tuple[float, Any]]
CLIENTS: dict[str, dict[str, dict[str, Client]]] = {
    "boss": {
        "read": {"intern parallel, 64^3": intern_chunks, "intern parallel": intern_whole},
        "write": {"intern, 64^3": intern_upload_chunks, "intern": intern_upload_whole},
    },
    "ndstore": {
        "read": {"ndio, 64^3": ndio_chunks, "ndio": ndio_whole},
        "write": {"ndio, 64^3": ndio_upload_chunks, "ndio": ndio_upload_whole},
    },
    "dvid": {"read": {"requests, 16 threads": plain_read}, "write": {"requests, 16 threads": plain_write}},
}

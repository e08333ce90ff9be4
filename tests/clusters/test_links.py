"""Workers on hosts of their own, as far as the network goes: namespaces joined by a bridge, and a link cut and mended."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ndbatch as nb

from .conftest import Seen, Site, contents, demo

IP = shutil.which("ip", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
NOTICED_AFTER = 12
"""Seconds without an answer after which a connection is given up, in place of 30; dask takes no less than 11."""


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(IP), *words], capture_output=True, text=True, timeout=180, check=False)


@dataclass(frozen=True)
class Hosts:
    """Namespaces `NAME-0`, `NAME-1` at .2 and .3 of a network whose bridge, here, is .1."""

    name: str
    network: str

    def address(self, number: int) -> str:
        return f"{self.network}.{number + 2}"

    def link(self, number: int, state: str) -> None:
        assert ip("link", "set", f"{self.name}v{number}", state).returncode == 0

    def start(self) -> str:
        """Set everything up; return why the kernel refuses, or nothing."""
        bridge = f"{self.name}b"
        steps = [
            ("link", "add", bridge, "type", "bridge"),
            ("addr", "add", f"{self.network}.1/24", "dev", bridge),
            ("link", "set", bridge, "up"),
        ]
        for number in range(2):
            space, outer, inner = f"{self.name}-{number}", f"{self.name}v{number}", f"{self.name}w{number}"
            steps += [
                ("netns", "add", space),
                ("link", "add", outer, "type", "veth", "peer", "name", inner),
                ("link", "set", inner, "netns", space),
                ("link", "set", outer, "master", bridge),
                ("link", "set", outer, "up"),
                ("-n", space, "addr", "add", f"{self.address(number)}/24", "dev", inner),
                ("-n", space, "link", "set", inner, "up"),
                ("-n", space, "link", "set", "lo", "up"),
            ]
        for step in steps:
            done = ip(*step)
            if done.returncode:
                return f"ip {' '.join(step)}: {done.stderr.strip()}"
        return ""

    def stop(self) -> None:
        for number in range(2):
            ip("netns", "del", f"{self.name}-{number}")
            ip("link", "del", f"{self.name}v{number}")
        ip("link", "del", f"{self.name}b")


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if IP is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2 (Debian: apt-get install iproute2)")
    number = os.getpid()
    made = Hosts(f"nd{number % 100000}", f"10.{100 + number % 100}.{number // 100 % 250}")
    try:
        if refused := made.start():
            pytest.skip(f"the kernel refuses: {refused}")
        yield made
    finally:
        made.stop()


@pytest.fixture
def site(hosts: Hosts, tmp_path: Path) -> Iterator[Site]:
    """A scheduler at the bridge and a worker in each namespace."""
    timeouts: dict[str, Any] = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": f"{NOTICED_AFTER}s"}
    made = Site(tmp_path, (), timeouts)
    try:
        made.start(f"{hosts.network}.1")
        for number in range(2):
            inside = (str(IP), "netns", "exec", f"{hosts.name}-{number}")
            made.worker("--name", f"host-{number}", host=hosts.address(number), within=inside)
        yield made
    finally:
        made.stop()


LONG = pytest.mark.skipif("NDBATCH_TEST_CLUSTER" not in os.environ, reason="takes as long as TCP takes to give up")


@pytest.mark.parametrize("seconds", [1.5, pytest.param(2.0 * NOTICED_AFTER, marks=LONG)], ids=["shortly", "for long"])
def test_a_link_is_cut_and_mended(
    seconds: float, site: Site, hosts: Hosts, tmp_path: Path, local_result: dict[str, bytes]
) -> None:
    """Shortly: nothing is lost. For long: what the worker was at is done elsewhere, also while it may still be writing."""
    mending = threading.Timer(seconds, hosts.link, (0, "up"))

    def cut() -> None:
        hosts.link(0, "down")
        mending.start()

    seen = Seen(after=24, then=cut)
    result = nb.run(demo(tmp_path / "run", {"kind": "dask", "address": site.address}), observers=[seen], report=False)
    mending.join()
    assert (result.status, result.counts.failed) == ("done", 0)
    assert contents(tmp_path / "run") == local_result

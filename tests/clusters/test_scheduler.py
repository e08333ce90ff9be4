"""A scheduler and workers that somebody else started, each by its own command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch import events
from ndbatch.config.load import from_mapping
from ndbatch.errors import ClusterError, ConfigError
from ndbatch.journal import Journal

from .conftest import Seen, Site, contents, demo

Start = Callable[..., Site]
FUNCTIONS = '''
import os, time
from pathlib import Path

import numpy as np


def double(image):
    return image * 2


def slow(image, seconds):
    time.sleep(seconds)
    return image + 1


def dies(image, block, bad, folder):
    Path(folder, f"{block.index}-{time.time_ns()}").touch()
    if block.index in bad:
        os.kill(os.getpid(), 9)
    return image + 1


def where(image, block, folder):
    Path(folder, f"{block.index}-{os.getpid()}").touch()
    time.sleep(0.2)
    return image + 1


def together(image, block, folder):
    """Does its second half only when two processes are at it."""
    Path(folder, f"{block.index}-{os.getpid()}").touch()
    deadline = time.monotonic() + 180
    while len({path.name.partition("-")[2] for path in Path(folder).iterdir()}) < 2 and block.index > 5:
        time.sleep(0.05)
        if time.monotonic() > deadline:
            raise TimeoutError("no second worker was given a block")
    return image + 1


def hungry(image, block, folder):
    """Takes what two workers were promised, but not more."""
    Path(folder, f"{block.index}-{time.time_ns()}").touch()
    hoard = np.ones(80_000_000 if block.index == 5 else 1)
    time.sleep(0.3)
    return image + hoard[:1].astype(image.dtype)
'''


def job(folder: Path, function: str, cluster: dict[str, Any], step: dict[str, Any] | None = None, **more: Any) -> Any:
    """Return a job of one function over a small volume, in 12 blocks."""
    (folder / "site_functions.py").write_text(FUNCTIONS)
    if not (folder / "image.zarr").exists():
        data = np.arange(16 * 22 * 15, dtype="uint16").reshape(16, 22, 15)
        volume = nb.create(f"{folder}/image.zarr", shape=data.shape, dtype=data.dtype, chunks=(8, 8, 8))
        volume.write(volume.domain, data)
    name = function if ":" in function else f"site_functions:{function}"
    document = {
        "name": "job",
        "inputs": {"image": "image.zarr"},
        "steps": [{name: {"input": "image", "output": "out", **(step or {})}}],
        "outputs": {"out": {"url": "out.zarr", "chunks": {"z": 8, "y": 8, "x": 8}}},
        "blocks": {"z": 8, "y": 8, "x": 8},
        "cluster": {"kind": "dask", "memory": "2 GB", **cluster},
        **more,
    }
    return from_mapping(document, folder)


def result_of(folder: Path) -> Any:
    return nb.open(f"{folder}/runs/job/out.zarr")[...]


def calls_in(folder: Path) -> Path:
    (folder / "calls").mkdir()
    return folder / "calls"


def wait_for(address: str, workers: int) -> None:
    import distributed

    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=180)


def test_a_worker_is_killed_halfway_and_another_comes(
    site: Start, tmp_path: Path, local_result: dict[str, bytes]
) -> None:
    cluster = site()
    first, _ = cluster.worker("--no-nanny"), cluster.worker("--no-nanny")

    def replace() -> None:
        first.kill()
        cluster.worker("--no-nanny")

    seen = Seen(after=48, then=replace)
    result = nb.run(
        demo(tmp_path / "run", {"kind": "dask", "address": cluster.address}), observers=[seen], report=False
    )
    assert (result.status, result.counts.failed) == ("done", 0)
    assert contents(tmp_path / "run") == local_result


def test_a_culprit_is_found_on_a_scheduler_that_others_use_too(site: Start, tmp_path: Path) -> None:
    """By itself dask would send the batch to three more workers, and blame all that waited beside it."""
    cluster, calls = site(), calls_in(tmp_path)
    for _ in range(2):
        cluster.worker()
    step = {"parameters": {"bad": [5], "folder": str(calls)}}
    result = nb.run(job(tmp_path, "dies", {"address": cluster.address}, step), report=False)
    assert result.counts == events.Counts(planned=12, done=11, failed=1)
    with Journal.read(tmp_path / "runs/job") as journal:
        (failure,) = journal.failures()
    assert (failure.block, failure.kind) == (5, "WorkerKilled")
    assert len([p for p in calls.iterdir() if p.name.startswith("5-")]) <= 3


def test_a_run_begins_with_the_first_worker_and_uses_those_that_come(site: Start, tmp_path: Path) -> None:
    cluster, calls = site(), calls_in(tmp_path)
    cluster.worker()
    config = job(tmp_path, "together", {"address": cluster.address}, {"parameters": {"folder": str(calls)}})
    result = nb.run(config, observers=[Seen(after=1, then=cluster.worker)], report=False)
    assert result.counts == events.Counts(planned=12, done=12)


def test_certificates(site: Start, tmp_path: Path) -> None:
    ca, cert, key = (str(tmp_path / name) for name in ("ca.pem", "cert.pem", "key.pem"))
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*openssl, "-keyout", key, "-out", cert], check=True, capture_output=True)
    Path(ca).write_bytes(Path(cert).read_bytes())
    cluster = site("--protocol", "tls", "--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key)
    cluster.worker()
    assert cluster.address.startswith("tls://")
    tls = {"address": cluster.address, "tls": {"ca": ca, "cert": cert, "key": key}}
    assert nb.run(job(tmp_path, "double", tls), report=False).counts.done == 12
    with pytest.raises(ConfigError, match="asks for certificates; write tls:"):
        nb.run(job(tmp_path, "double", {"address": cluster.address}), fresh=True, report=False)


def test_workers_of_another_version_are_told_before_the_first_block(site: Start, tmp_path: Path) -> None:
    other = tmp_path / "older" / "ndbatch-0.0.3.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: ndbatch\nVersion: 0.0.3\n")
    cluster = site()
    cluster.worker(PYTHONPATH=str(other.parent))
    with pytest.raises(ClusterError, match=r"has ndbatch 0.0.3 \(here .*\); use the same environment on both sides"):
        nb.run(job(tmp_path, "double", {"address": cluster.address}), report=False)


def test_a_module_that_workers_lack_is_told_before_the_first_block(
    site: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "elsewhere" / "only_here_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def same(image):\n    return image\n")
    monkeypatch.syspath_prepend(package.parent)
    cluster, seen = site(), Seen()
    cluster.worker()
    config = job(tmp_path, "only_here_package:same", {"address": cluster.address})
    with pytest.raises(ClusterError, match=r"cannot open the work: .*only_here_package.*the same modules"):
        nb.run(config, observers=[seen], report=False)
    assert not seen.of(events.BlockFailed)


def test_only_workers_with_a_gpu_are_given_its_blocks(site: Start, tmp_path: Path) -> None:
    """The worker with it is killed and another comes; the one without it never does a block."""
    cluster, calls = site(), calls_in(tmp_path)
    plain, first = cluster.worker("--no-nanny"), cluster.worker("--no-nanny", "--resources", "gpu=1")
    others: list[subprocess.Popen[bytes]] = []

    def replace() -> None:
        first.kill()
        others.append(cluster.worker("--no-nanny", "--resources", "gpu=1"))

    step = {"parameters": {"folder": str(calls)}, "resources": {"gpu": 1}}
    config = job(tmp_path, "where", {"address": cluster.address}, step)
    wait_for(cluster.address, 2)
    assert nb.run(config, observers=[Seen(after=2, then=replace)], report=False).status == "done"
    used = {int(path.name.partition("-")[2]) for path in calls.iterdir()}
    assert used == {first.pid, others[0].pid}
    assert plain.pid not in used


def test_out_of_memory_halves_the_workers_and_the_block_is_done(tmp_path: Path) -> None:
    calls = calls_in(tmp_path)
    cluster = {"kind": "local", "workers": 2, "memory": "600 MB"}
    seen = Seen()
    config = job(tmp_path, "hungry", cluster, {"parameters": {"folder": str(calls)}})
    assert nb.run(config, observers=[seen], report=False).counts == events.Counts(planned=12, done=12)
    (again,) = seen.of(events.BlockRetried)
    assert (again.block, again.attempt) == (5, 1)
    assert "out of memory" in again.error


def test_a_lost_scheduler_ends_the_run_and_another_goes_on(site: Start, tmp_path: Path) -> None:
    cluster = site()
    cluster.worker()
    seen = Seen(after=3, then=lambda: os.kill(cluster.processes[0].pid, signal.SIGKILL))
    config = job(tmp_path, "slow", {"address": cluster.address}, {"parameters": {"seconds": 0.3}})
    with pytest.raises(ClusterError, match=r"is gone .* run the same command again"):
        nb.run(config, observers=[seen], report=False)
    with Journal.read(tmp_path / "runs/job") as journal:
        assert journal.failures() == []
    config = job(tmp_path, "slow", {"kind": "threads", "workers": 2}, {"parameters": {"seconds": 0.3}})
    result = nb.run(config, report=False)
    assert result.status == "done"
    assert result.counts.skipped >= 3
    assert np.array_equal(result_of(tmp_path).ravel(), np.arange(16 * 22 * 15) + 1)


def test_any_class_by_its_path(tmp_path: Path) -> None:
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    cluster = {"starts": "distributed.LocalCluster", "options": options}
    assert nb.run(job(tmp_path, "double", cluster), report=False).counts.done == 12
    wrong = {"starts": "distributed.SpecCluster", "options": {"n_wrkers": 1}}
    with pytest.raises(ClusterError, match=r"distributed.SpecCluster did not start \(TypeError: .*n_wrkers"):
        nb.run(job(tmp_path, "double", wrong), fresh=True, report=False)
    with pytest.raises(ConfigError, match=r"nowhere\.Cluster cannot be imported"):
        nb.run(job(tmp_path, "double", {"starts": "nowhere.Cluster"}), fresh=True, report=False)


def test_a_script_may_be_the_driver(tmp_path: Path) -> None:
    """Two drivers on one cluster file: the configuration is the same, and so is the command."""
    config = job(tmp_path, "double", {"kind": "local", "workers": 1})
    from ndbatch.config.load import dump

    (tmp_path / "job.yaml").write_text(dump(config))
    command = [sys.executable, "-m", "ndbatch", "run", str(tmp_path / "job.yaml"), "--quiet"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=180, check=False).returncode == 0

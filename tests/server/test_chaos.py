"""Runs through a bad network: complete and byte for byte the same, or an exact list of what failed and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch import events
from ndbatch.errors import RemoteError
from ndbatch.journal import Journal
from ndbatch.remotes.base import Array
from ndbatch.remotes.http import retries
from ndbatch.remotes.http.client import client
from ndbatch.testing.chaos import KINDS, Chaos, Faults, chaos_proxy
from ndbatch.testing.serving import serving
from ndbatch.testing.volumes import voxels

SHAPE, CHUNK = (64, 160, 160), (32, 32, 32)
DATA = voxels(SHAPE, "uint16", seed=7)
SOON: dict[str, Any] = {"silence": 0.4, "trickle_seconds": 0.2, "retry_after": 0.05, "jitter": 0.002}
"""Faults that last as long as a test may."""
FORMATS = ("precomputed", "zarr")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve `lab/em`: 50 chunks of noise."""
    folder = tmp_path_factory.mktemp("served")
    volume = nb.create(f"{folder}/lab/em.zarr", shape=SHAPE, dtype="uint16", chunks=CHUNK)
    volume.write(volume.domain, DATA)
    with serving(folder) as (url, _):
        yield url


@pytest.fixture
def chaos(service: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chaos]:
    """Put a proxy without faults before the service; what is asked for afterwards is asked for soon."""
    monkeypatch.setattr(retries, "PAUSE", 0.01)
    retries.host.cache_clear()
    with chaos_proxy(service) as proxy:
        yield proxy


def address(chaos: Chaos, kind: str) -> str:
    return f"{kind}://{chaos.url}/{kind}/lab/em"


def job(folder: Path, source: str, cluster: str = "threads", attempts: int = 4) -> dict[str, Any]:
    """Return the configuration of a copy to a local volume, in 25 blocks of two chunks."""
    return {
        "name": "copy",
        "inputs": {"image": source},
        "steps": [{"copy": {"input": "image", "output": "out"}}],
        "outputs": {"out": {"url": f"{folder}/out.zarr", "chunks": {"z": 64, "y": 32, "x": 32}}},
        "blocks": {"z": 64, "y": 32, "x": 32},
        "cluster": {"kind": cluster, "workers": 2},
        "retry": {"attempts": attempts, "budget": 1, "wait": 0.01},
        "directory": f"{folder}/run",
    }


def written(folder: Path) -> Array:
    volume = nb.open(f"{folder}/out.zarr")
    return volume.read(volume.domain)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("fault", KINDS)
def test_a_run_survives_each_fault(chaos: Chaos, tmp_path: Path, kind: str, fault: str) -> None:
    chances: dict[str, Any] = {fault: 0.05}
    chaos.faults = Faults(**chances, **SOON, seed=3, where=r"\d")
    result = nb.run(job(tmp_path, address(chaos, kind)), report=False)
    assert (result.status, result.counts.done) == ("done", 25)
    assert np.array_equal(written(tmp_path), DATA)
    assert chaos.counts[fault] > 0


@pytest.mark.parametrize("fault", ["reset", "corrupt", "every"])
@pytest.mark.parametrize("service_kind", ["ndstore", "boss", "dvid"])
def test_from_a_service_to_a_service(chaos: Chaos, service: str, tmp_path: Path, service_kind: str, fault: str) -> None:
    """Read and upload through the same bad network; what the service then holds is looked at without it."""
    places = {
        "ndstore": ("ndstore://{}/lab/em", "ndstore://{}/made/out"),
        "boss": ("boss://{}/lab/lab/em", "boss://{}/lab/made/out"),
        "dvid": ("", ""),
    }[service_kind]
    if service_kind == "dvid":
        repositories = client(service).get("/api/repos/info").json()
        (root,) = (one["Root"] for one in repositories.values() if one["Alias"] == "lab")
        places = (f"dvid://{{}}/{root}/em", f"dvid://{{}}/{root}/out")
    source, target = (place.format(chaos.url.removeprefix("http://")) for place in places)
    target += f"_{fault}_{service_kind}"
    config = job(tmp_path, source, attempts=6)
    config["outputs"] = {"out": {"url": target}}
    config["blocks"] = "auto"
    chances: dict[str, Any] = {fault: 0.05}
    whole = Faults.every(0.02, **SOON) if fault == "every" else Faults(**chances, **SOON, seed=2)
    begun = []

    def begin(event: events.Event) -> None:
        if isinstance(event, events.StageStarted):
            begun.append(event)
            chaos.faults = whole

    result = nb.run(config, report=False, observers=[begin])
    chaos.faults = Faults()
    assert (result.status, result.counts.failed) == ("done", 0)
    volume = nb.open(target.replace(chaos.url.removeprefix("http://"), service.removeprefix("http://")))
    assert np.array_equal(volume.read(volume.domain), DATA)


def test_processes_survive_all_faults_together(chaos: Chaos, tmp_path: Path) -> None:
    chaos.faults = Faults.every(0.05, **SOON, where=r"\d")
    result = nb.run(job(tmp_path, address(chaos, "precomputed"), "processes", attempts=8), report=False)
    assert result.status == "done"
    assert np.array_equal(written(tmp_path), DATA)
    assert {kind for kind, _ in chaos.met} >= {"corrupt", "shorter", "reset", "truncated"}


def test_interactive_reads_survive_too(chaos: Chaos) -> None:
    volume = nb.open(address(chaos, "zarr"))
    chaos.faults = Faults(corrupt=0.05, shorter=0.03, error=0.05, reset=0.05, **SOON, seed=1)
    assert np.array_equal(volume.dask().compute(scheduler="threads", num_workers=8), DATA)
    assert chaos.counts["corrupt"] > 0


@pytest.mark.parametrize("kind", FORMATS)
def test_what_cannot_be_read_is_listed_exactly_and_done_later(chaos: Chaos, tmp_path: Path, kind: str) -> None:
    """Chunks at the start of y and x never come whole; all other blocks are done, and the next run does these."""
    place = {"precomputed": r"/0-32_0-32_\d", "zarr": r"em/0/\d+/0/0$"}[kind]
    chaos.faults = Faults(corrupt=1, where=place)
    config = job(tmp_path, address(chaos, kind))
    result = nb.run(config, report=False)
    assert (result.status, result.counts.done, result.counts.failed) == ("failed", 24, 1)
    with Journal.read(tmp_path / "run") as journal:
        (failure,) = journal.failures()
    assert failure.box == "z: [0, 64], y: [0, 32], x: [0, 32]"
    assert failure.attempts == 4
    assert "unencoding" in failure.error
    expected = DATA.copy()
    expected[:, :32, :32] = 0
    assert np.array_equal(written(tmp_path), expected)
    chaos.faults = Faults()
    assert nb.run(config, report=False).counts.done == 1
    assert np.array_equal(written(tmp_path), DATA)


@pytest.mark.parametrize(("status", "words"), [(401, "does not give it"), (403, "does not give it"), (400, "400")])
def test_permanent_errors_stop_early(tmp_path: Path, service: str, status: int, words: str) -> None:
    """A service that refuses every chunk is not asked for all of them, and the error says what to fix."""
    with chaos_proxy(service) as chaos:
        source = address(chaos, "precomputed")
        config = job(tmp_path, source)

        def begin(event: events.Event) -> None:
            if isinstance(event, events.StageStarted):
                chaos.refuse(status, r"\d-\d")

        result = nb.run(config, report=False, observers=[begin])
        assert result.status == "failed"
        assert result.counts.done == 0
        assert 16 <= result.counts.failed < 25
        assert sum(chaos.counts.values()) < 60
        with Journal.read(tmp_path / "run") as journal:
            failures = journal.failures()
        assert len(failures) == result.counts.failed
        assert all(words in failure.error and failure.attempts == 1 for failure in failures)
        chaos.refuse(0)
        assert nb.run(config, report=False).status == "done"
        assert np.array_equal(written(tmp_path), DATA)


def test_damaged_metadata_is_an_error(chaos: Chaos) -> None:
    """`info` whose bytes were changed: asked for again, or told; never another shape."""
    good = nb.open(address(chaos, "precomputed")).spec
    for seed in range(20):
        chaos.faults = Faults(corrupt=0.5, shorter=0.2, seed=seed)
        with suppress(RemoteError):
            assert nb.open(address(chaos, "precomputed")).spec == good


def test_the_same_seed_brings_the_same_faults() -> None:
    faults = Faults.every(0.05, seed=5)
    kinds = [faults.of("GET /a", number)[0] for number in range(1000)]
    assert kinds == [faults.of("GET /a", number)[0] for number in range(1000)]
    assert kinds != [faults.of("GET /b", number)[0] for number in range(1000)]
    assert all(20 < kinds.count(kind) < 90 for kind in KINDS)
    assert json.dumps(KINDS).count("latency") == 0
    assert not any(Faults.every(0.05, where="^PUT").of("GET /a", number)[0] for number in range(1000))

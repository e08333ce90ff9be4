"""From a service to a service: runs, copies and ingests over HTTP, whole, resumable, verified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

import ndbatch as nb
from ndbatch import events
from ndbatch.config.secret import Secret
from ndbatch.errors import PlanError
from ndbatch.ingest.upload import ingest
from ndbatch.server.service import Access
from ndbatch.testing.serving import serving
from ndbatch.testing.volumes import voxels

SHAPE = (36, 150, 140)
SIZE = (1.0, 0.5, 0.5)
OFFSET = (4, 8, 12)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield `127.0.0.1:port` of a service that serves an empty folder; the current folder is another one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "served").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with serving(tmp_path / "served") as (url, _):
        yield url.removeprefix("http://")


def spots() -> Any:
    """Return an image, uint8, with 12 bright balls of 5 um across, and where they are."""
    grid = np.indices(SHAPE).astype(float) * np.array(SIZE)[:, None, None, None]
    image = np.full(SHAPE, 10.0)
    for z in (9, 26):
        for y in (20, 50):
            for x in (15, 35, 55):
                far = sum((axis - at) ** 2 for axis, at in zip(grid, (z, y, x), strict=True))
                image += 180 * np.exp(-far / (2 * 1.8**2))
    return np.clip(image + np.random.default_rng(1).normal(0, 2, SHAPE), 0, 255).astype("uint8")


def uploaded(url: str, data: Any) -> None:
    volume = nb.create(url, shape=data.shape, dtype=data.dtype, voxel_size=SIZE, offset=OFFSET)
    volume.write(volume.domain, data)


def counting(source: str, target: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "inputs": {"image": source},
        "steps": [
            {"nuclei": {"input": "image", "diameter": "5 um", "output": "labels", "points": "cells"}},
        ],
        "outputs": {"labels": {"url": target, "kind": "labels", "dtype": "uint64"}, "cells": "cells.parquet"},
        "directory": f"runs/{name}",
        **more,
    }


def test_counting_from_a_service_to_another(host: str) -> None:
    """The same labels and the same table as between local files; a second call finds everything there."""
    image = spots()
    uploaded(f"ndstore://{host}/embryo/nuclei", image)
    uploaded("local.zarr", image)
    local = nb.run(counting("local.zarr", "labels.zarr", "local"))
    away = counting(f"ndstore://{host}/embryo/nuclei", f"boss://{host}/lab/embryo/labels", "away")
    result = nb.run(away)
    assert (result.status, result.rows["cells"]) == ("done", 12)
    labels, same = nb.open(f"boss://{host}/lab/embryo/labels"), nb.open(local.outputs["labels"])
    assert np.array_equal(labels[...], same[...])
    assert labels.offset == OFFSET
    assert labels.attributes["complete"] is True
    one, other = (parquet.read_table(Path("runs", name, "cells.parquet")) for name in ("local", "away"))
    assert one.equals(other)
    assert nb.check(Path("runs/away")).ok
    assert nb.run(away).nothing_to_do


def test_a_run_that_is_stopped_goes_on(host: str) -> None:
    image = spots()
    uploaded(f"boss://{host}/lab/embryo/image", image)
    config = counting(
        f"boss://{host}/lab/embryo/image",
        f"ndstore://{host}/cells/labels",
        "stopped",
        blocks={"z": 16, "y": 128, "x": 128},
        cluster={"kind": "threads", "workers": 1},
    )
    seen = 0

    def stop(event: events.Event) -> None:
        nonlocal seen
        if isinstance(event, events.BlocksDone) and event.stage > 0:
            seen += 1
            if seen == 2:
                raise KeyboardInterrupt

    assert nb.run(config, observers=[stop]).status == "interrupted"
    result = nb.run(config)
    assert result.status == "done"
    assert result.counts.skipped > 0
    whole = nb.run(counting(f"boss://{host}/lab/embryo/image", f"ndstore://{host}/cells/whole", "whole"))
    assert np.array_equal(nb.open(f"ndstore://{host}/cells/labels")[...], nb.open(whole.outputs["labels"])[...])


def test_around_all_services(host: str) -> None:
    """A volume goes from one service to the next, and comes back as it was."""
    data = voxels((20, 150, 140), "uint8")
    uploaded(f"ndstore://{host}/one/image", data)
    instance = next(entry for entry in nb.connect(f"dvid://{host}").ls() if entry.name.endswith("image"))
    away = f"{instance.url.rpartition('/')[0]}/again"
    for source, target in (
        (f"ndstore://{host}/one/image", f"boss://{host}/lab/two/image"),
        (f"boss://{host}/lab/two/image", away),
        (away, f"ndstore://{host}/four/image"),
    ):
        assert nb.copy(source, target, cluster="threads").status == "done"
        copied = nb.open(target)
        assert np.array_equal(copied[{"z": slice(4, 24), "y": slice(8, 158), "x": slice(12, 152)}], data), target


@pytest.mark.parametrize("target", ["ndstore://{host}/tok", "boss://{host}/lab/exp"])
def test_an_ingest_makes_what_is_missing_and_has_levels_made(host: str, target: str) -> None:
    uploaded("image.zarr", voxels((20, 300, 280), "uint8"))
    (done,) = ingest("image.zarr", target.format(host=host), levels=2, cluster="threads")
    assert done.ok
    assert done.levels == 3
    assert done.url == f"{target.format(host=host)}/image"
    volume = nb.open(done.url)
    assert np.array_equal(volume[...], nb.open("image.zarr")[...])
    assert nb.open(f"{done.url}?level=2").shape == (20, 75, 70)
    (again,) = ingest("image.zarr", target.format(host=host), levels=2, cluster="threads")
    assert again.result.nothing_to_do


def test_old_voxels_are_never_left_under_new_zeros(host: str) -> None:
    """A service that keeps old voxels under zeros is refused where something is there, and emptied by --fresh."""
    uploaded("image.zarr", voxels((8, 64, 64), "uint8"))
    uploaded(f"ndstore://{host}/old/image", np.full((8, 64, 64), 9, "uint8"))
    with pytest.raises(PlanError, match="keeps old voxels where zeros are written"):
        nb.copy("image.zarr", f"ndstore://{host}/old/image", update=True, cluster="threads")
    assert (nb.open(f"ndstore://{host}/old/image")[...] == 9).all()
    for seed in (1, 2):
        data = voxels((8, 64, 64), "uint8", seed)
        uploaded(f"source-{seed}.zarr", data)
        nb.copy(
            f"source-{seed}.zarr",
            f"ndstore://{host}/new/image",
            fresh=seed > 1,
            cluster="threads",
            directory="runs/copy",
        )
        assert np.array_equal(nb.open(f"ndstore://{host}/new/image")[...], data)


def test_a_secret_is_a_reference_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token of the target is in no file of the run, and `check` still reaches it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LAB_TOKEN", "verysecret")
    uploaded("image.zarr", voxels((8, 64, 64), "uint8"))
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served", Access("token", ("verysecret",))) as (url, _):
        target = url.replace("http://", "ndstore://") + "/tok/image"
        result = nb.run(
            {
                "name": "secret",
                "inputs": {"image": "image.zarr"},
                "steps": [{"copy": {"input": "image", "output": "copy"}}],
                "outputs": {"copy": {"url": target, "token": {"env": "LAB_TOKEN"}}},
            }
        )
        assert result.status == "done"
        assert nb.check(result.directory).ok
        assert nb.open(target, token=Secret(env="LAB_TOKEN")).shape == (8, 64, 64)
    files = [path for path in result.directory.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"verysecret" in path.read_bytes()]

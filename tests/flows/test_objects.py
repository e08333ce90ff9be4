"""Runs that end in RAMON objects: in files and in an ndstore, each object once whatever happens on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

import ndbatch as nb
from ndbatch import ramon
from ndbatch.cli.app import main
from ndbatch.errors import ConfigError, PlanError, RemoteError
from ndbatch.geometry import Box
from ndbatch.ramon import Annotation, Organelle, Segment, class_of
from ndbatch.ramon.channel import ChannelObjects
from ndbatch.ramon.measured import objects_of
from ndbatch.testing.serving import serving

SHAPE = (16, 32, 32)
PLACES = {3: (2, 4, 6), 7: (9, 20, 11), 2**32 - 1: (12, 3, 25), 11: (4, 25, 25)}


def fill(folder: Path) -> None:
    """Write four cubes of 3 voxels, some across blocks, and an image of ones and twos."""
    data = np.zeros(SHAPE, np.uint32)
    for label, (z, y, x) in PLACES.items():
        data[z : z + 3, y : y + 3, x : x + 3] = label
    for name, values, kind in (("labels", data, "labels"), ("image", (data > 0).astype(np.uint8) + 1, "image")):
        volume = nb.create(
            folder / f"{name}.zarr", shape=SHAPE, dtype=values.dtype, axes="zyx", kind=kind, chunks=(8, 16, 16),
            voxel_size=(2.0, 1.0, 1.0),
        )  # fmt: skip
        volume.write(volume.domain, values)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(**changes: Any) -> dict[str, Any]:
    return {
        "name": "job",
        "inputs": {"labels": "labels.zarr", "image": "image.zarr"},
        "steps": [{"objects": {"labels": "labels", "intensity": "image", "type": "organelle", "output": "cells"}}],
        "outputs": {"cells": "cells.ramon.h5"},
        "blocks": {"z": 8, "y": 16, "x": 16},
        "cluster": {"kind": "inline"},
        **changes,
    }


def require_cells(things: Iterable[Annotation]) -> None:
    """Assert that the objects are those of `fill`, each once, with what was measured."""
    found = list(things)
    assert [thing.id for thing in found] == sorted(PLACES)
    for thing in found:
        assert isinstance(thing, Organelle)
        assert thing.centroid == tuple(start + 1 for start in PLACES[thing.id])
        pairs = thing.kvpairs
        assert (pairs["voxels"], pairs["volume_um3"], pairs["intensity_mean"]) == ("27", "54.0", "2.0")
        assert [pairs[f"bbox_min_{axis}"] for axis in "zyx"] == [str(start) for start in PLACES[thing.id]]
        assert pairs["touches_border"] == "false"


@pytest.mark.parametrize("name", ["cells.ramon.h5", "cells.parquet", "cells.json"])
def test_objects_of_labels_in_a_file(folder: Path, name: str) -> None:
    result = nb.run(job(outputs={"cells": name}))
    assert result.status == "done"
    assert parquet.read_table(result.outputs["cells"]).num_rows == 4
    require_cells(ramon.open(folder / "runs" / "job" / name))


@pytest.fixture
def channel(folder: Path) -> Iterator[str]:
    """An ndstore that holds the labels, as lab/cells."""
    served = folder / "served" / "lab"
    served.mkdir(parents=True)
    (folder / "labels.zarr").rename(served / "cells.zarr")
    with serving(folder / "served") as (url, _):
        yield f"ndstore+{url}/lab/cells"


def test_objects_of_a_channel_go_to_the_channel(channel: str) -> None:
    document = job(inputs={"labels": channel, "image": "image.zarr"}, outputs={"cells": channel})
    assert nb.run(document).status == "done"
    store = ramon.open(channel)
    require_cells(store)
    assert store.query("organelle", box=Box((0, 0, 0), (4, 8, 10))) == [3]
    assert store.bounding_box(7) == Box((9, 20, 11), (12, 23, 14))
    with pytest.raises(PlanError, match="holds objects already"):
        nb.run({**document, "name": "other"})
    again = {"url": channel, "create": False}
    assert nb.run({**document, "name": "other", "outputs": {"cells": again}}).status == "done"
    require_cells(store)


def test_where_objects_are_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "job.yaml").write_text(yaml.safe_dump(job()))
    for verb in ("plan", "run"):
        with pytest.raises(SystemExit):
            main([verb, "job.yaml"])
        assert "cells.ramon.h5" in capsys.readouterr().out.replace("\n", "")
    page = (folder / "runs" / "job" / "report.html").read_text()
    assert "organelle objects" in page
    assert "cells.ramon.h5" in page


def test_a_measured_table_ends_as_objects_of_labels_that_the_run_writes(channel: str) -> None:
    there = f"{channel.rpartition('/')[0]}/nuclei"
    document = job(
        inputs={"labels": channel, "image": "image.zarr"},
        steps=[
            {"copy": {"input": "labels", "output": "nuclei"}},
            {"measure": {"labels": "labels", "intensity": "image", "output": "cells"}},
        ],
        outputs={"nuclei": {"url": there, "kind": "labels"}, "cells": {"url": there, "objects": "organelle"}},
        blocks="auto",
    )
    assert nb.run(document).status == "done"
    require_cells(ramon.open(there))
    assert ramon.open(there).voxels(11).shape == (27, 3)


def broken_after(count: int) -> Callable[..., list[int]]:
    """Return a `put` that fails when `count` objects are stored."""

    def put(self: ChannelObjects, things: Iterable[Annotation], replace: bool = False) -> list[int]:
        for stored, thing in enumerate(things):
            if stored == count:
                raise RemoteError("the service went away")
            whole(self, [thing], replace)
        return []

    whole = ChannelObjects.put
    return put


def test_objects_are_there_once_though_storing_them_was_cut_off(channel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document = job(inputs={"labels": channel, "image": "image.zarr"}, outputs={"cells": channel})
    with monkeypatch.context() as patch:
        patch.setattr(ChannelObjects, "put", broken_after(2))
        with pytest.raises(RemoteError, match="went away"):
            nb.run(document)
    assert len(ramon.open(channel)) == 2
    assert nb.run(document).status == "done"
    require_cells(ramon.open(channel))
    assert nb.run(document).status == "done"


POINTS = """
def corners(labels, block):
    box = block.core
    return {"z": [float(box.start[0])], "y": [float(box.start[1])], "x": [float(box.start[2])], "colour": ["red, or blue"]}
"""


def test_rows_without_ids_are_given_some_once(channel: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "points_of_test.py").write_text(POINTS)
    monkeypatch.syspath_prepend(str(folder))
    ramon.open(channel).put([Segment(id=40)])
    document = job(
        inputs={"labels": channel},
        steps=[{"points_of_test:corners": {"input": "labels", "table": "cells"}}],
        outputs={"cells": {"url": channel, "objects": "synapse", "create": False}},
    )
    with monkeypatch.context() as patch:
        patch.setattr(ChannelObjects, "put", broken_after(3))
        with pytest.raises(RemoteError, match="went away"):
            nb.run(document)
    assert nb.run(document).status == "done"
    store = ramon.open(channel)
    assert store.query("synapse") == list(range(41, 49))
    assert {thing.kvpairs["colour"] for thing in store.get(range(41, 49))} == {"red, or blue"}


def test_what_keeps_no_objects_is_refused_before_any_work(channel: str) -> None:
    steps = [{"measure": {"labels": "labels", "output": "cells"}}]
    inputs = {"labels": channel}
    with pytest.raises(ConfigError, match="say objects: segment"):
        nb.run(job(inputs=inputs, steps=steps, outputs={"cells": channel}))
    with pytest.raises(ConfigError, match="keeps no objects"):
        nb.run(job(inputs=inputs, steps=steps, outputs={"cells": {"url": "cells.csv", "objects": "segment"}}))
    with pytest.raises(ConfigError, match="only an ndstore"):
        nb.run(job(inputs=inputs, steps=steps, outputs={"cells": {"url": "zarr:///x.zarr", "objects": "segment"}}))
    with pytest.raises(PlanError, match="need a channel of labels"):
        nb.run(job(inputs=inputs, steps=steps, outputs={"cells": {"url": f"{channel}x", "objects": "segment"}}))
    with pytest.raises(ConfigError, match="objects"):
        nb.run(job(inputs=inputs, steps=steps, outputs={"cells": {"url": "cells.parquet", "objects": "cell"}}))


def test_rows_become_fields_and_pairs() -> None:
    batch = pa.RecordBatch.from_pydict(
        {
            "label": [5],
            "neuron": [9],
            "z": [1.5],
            "y": [2.4],
            "x": [3.0],
            "mean": [float("nan")],
            "share": [1 / 3],
            "name": ["ä"],
        }
    )
    (segment,) = objects_of(batch, Segment)
    assert segment == Segment(
        id=5, neuron=9, kvpairs={"z": "1.5", "y": "2.4", "x": "3.0", "share": repr(1 / 3), "name": "ä"}
    )
    (node,) = objects_of(batch, class_of("node"))
    assert node.location == (1.5, 2.4, 3.0)  # type: ignore[attr-defined]
    wide = pa.RecordBatch.from_pydict({"label": pa.array([2**40], pa.uint64())})
    with pytest.raises(PlanError, match="relabel"):
        list(objects_of(wide, Segment))

"""ndbatch downsample, and copy --levels: levels right, resumed, added to, made again, and refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.geometry import Box
from ndbatch.journal import Journal
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Patch
from ndbatch.steps.pooling import Pooling, pool

if TYPE_CHECKING:
    from conftest import Command

SIZE = {"z": "1 um", "y": "0.5 um", "x": "0.5 um"}
SHAPE = (20, 290, 40)
FACTORS = ((1, 2, 2), (2, 2, 2))


def made(url: str, kind: str, offset: tuple[int, int, int] = (0, 0, 0)) -> Array:
    """Write a volume whose longest axis is longer than 256 voxels, and return its voxels."""
    voxels = np.random.default_rng(0).integers(0, 5, SHAPE, np.uint16)
    volume = nb.create(url, shape=SHAPE, dtype="uint16", voxel_size=SIZE, chunks=(16, 64, 32), kind=kind, offset=offset)
    volume.write(volume.domain, voxels)
    return voxels


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Array:
    """The voxels of a.zarr, labels, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return made("a.zarr", "labels", (3, 5, 0))


def require_levels(url: str, data: Array, methods: list[Pooling], factors: tuple[tuple[int, ...], ...]) -> None:
    """Compare every level with that pooled from the whole array before it."""
    finest = nb.open(url)
    assert np.array_equal(finest[...], data)
    assert finest.levels == 1 + len(factors)
    patch = Patch(data, Box.of_shape(data.shape, finest.offset))
    for level, (method, step) in enumerate(zip(methods, factors, strict=True), 1):
        box = patch.box.coarsened(step)
        patch = Patch(pool(patch, box, step, method), box)
        volume = nb.open(url, level=level)
        assert (volume.domain, volume.kind) == (box, finest.kind)
        assert np.array_equal(volume[...], patch.data), f"level {level}"


def test_levels_are_added_to_the_volume(data: Array, ndbatch: Command) -> None:
    done = ndbatch("downsample", "a.zarr", "--workers", 1, "-q")
    assert done.code == 0, done.err
    require_levels("a.zarr", data, ["mode"] * 2, FACTORS)
    assert nb.open("a.zarr", level=2).voxel_size == (2.0, 2.0, 2.0)
    assert nb.open("a.zarr", level=1).chunks == (16, 64, 32)


def test_the_same_command_goes_on_another_adds_below(data: Array, ndbatch: Command) -> None:
    words = ["downsample", "a.zarr", "--levels", 1, "--workers", 1, "-q"]
    assert ndbatch(*words).code == 0
    again = ndbatch(*words)
    assert (again.code, "everything was done before" in again.out) == (0, True)
    assert ndbatch("downsample", "a.zarr", "--levels", 2, "--method", "min", "--workers", 1, "-q").code == 0
    require_levels("a.zarr", data, ["mode", "min", "min"], (*FACTORS, (2, 2, 2)))
    refused = ndbatch("downsample", "a.zarr", "-q")
    assert refused.code == 2
    assert "its 4 levels are enough, no axis of the coarsest is longer than 128 voxels" in refused.err


def test_a_run_that_did_not_end_is_gone_on_with(data: Array, ndbatch: Command) -> None:
    """The levels are there and empty, as a killed run leaves them: they are made, not added to."""
    words = ["downsample", "a.zarr", "--workers", 1, "-q"]
    assert ndbatch(*words).code == 0
    (place,) = Path("runs").glob("downsample-a-*-level1")
    for level in (1, 2):
        volume = nb.open("a.zarr", level=level)
        volume.write(volume.domain, np.zeros(volume.shape, volume.dtype))
    with Journal.write(place) as journal:
        for stage in (0,):
            journal.forget(stage, range(100))
        journal.unset("complete")
        journal.begin(journal.document)
        journal.end("interrupted")
    refused = ndbatch("downsample", "a.zarr", "--method", "max", "--workers", 1, "-q")
    assert (refused.code, "was begun with something else" in refused.err) == (2, True)
    assert ndbatch(*words).code == 0
    require_levels("a.zarr", data, ["mode"] * 2, FACTORS)


def test_levels_are_made_again_where_told(data: Array, ndbatch: Command) -> None:
    assert ndbatch("downsample", "a.zarr", "--levels", 2, "--workers", 1, "-q").code == 0
    volume = nb.open("a.zarr")
    volume.write(volume.domain, data + 1)
    refused = ndbatch("downsample", "a.zarr", "--levels", 2, "--workers", 1, "-q")
    assert (refused.code, "inputs.source.version" in refused.err) == (2, True)
    words = ["downsample", "a.zarr", "--levels", 1, "--method", "max", "--workers", 1, "-q"]
    assert ndbatch(*words, "--fresh").code == 0
    require_levels("a.zarr", data + 1, ["max"] * 2, FACTORS)


def test_a_new_volume_with_all_levels(data: Array, ndbatch: Command) -> None:
    words = ["--levels", 1, "--factors", "z=1,y=3,x=2", "--method", "stride", "--workers", 1, "-q"]
    done = ndbatch("downsample", "a.zarr?crop=y:6:294", "--output", "b.n5", *words)
    assert done.code == 0, done.err
    require_levels("b.n5", data[:, 1:289], ["stride"], ((1, 3, 2),))
    assert nb.open("a.zarr").levels == 1


def test_copies_with_levels(data: Array, ndbatch: Command) -> None:
    made("even.zarr", "image")
    for levels, count in (("all", 2), ("1", 1)):
        target = f"copy-{levels}.zarr"
        assert ndbatch("copy", "even.zarr", target, "--levels", levels, "--workers", 1, "-q").code == 0
        require_levels(target, data, ["mean"] * count, FACTORS[:count])


def test_auto_ends_where_its_factors_shorten_nothing_more(data: Array, ndbatch: Command) -> None:
    """Along y alone: z and x stay as they are, however long, and the levels come to an end."""
    assert ndbatch("downsample", "a.zarr", "--factors", "y=2", "--workers", 1, "-q").code == 0
    require_levels("a.zarr", data, ["mode"] * 2, ((1, 2, 1),) * 2)


def test_from_python(data: Array) -> None:
    result = nb.downsample("a.zarr", levels=1, method="stride", cluster="inline")
    assert (result.status, result.outputs) == ("done", {"coarser": str(Path("a.zarr?level=1").resolve())})
    require_levels("a.zarr", data, ["stride"], FACTORS[:1])
    view = nb.open("a.zarr", crop={"y": (6, 294)})
    nb.copy(view, "b.zarr", levels=1, cluster="inline", flip=["x"])
    assert np.array_equal(nb.open("b.zarr")[...], data[:, 1:289, ::-1])
    assert nb.open("b.zarr").levels == 2
    assert nb.downsample(nb.open("a.zarr"), levels=1, method="stride", cluster="inline").nothing_to_do
    nb.downsample("a.zarr", "c.n5", levels=1, factors={"x": 2}, cluster="inline")
    require_levels("c.n5", data, ["mode"], ((1, 1, 2),))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["a.zarr?crop=y:0:64"],
            "levels are added to a whole volume; leave crop out, or give --output with a new volume",
        ),
        (["a.zarr?level=0"], "leave level out"),
        (["a.h5"], "hdf5 volumes keep one level only; give --output with a volume that keeps more, such as a.zarr"),
        (["a.zarr", "--output", "b.h5", "--levels", "1", "--factors", "x=2"], "hdf5 volumes keep one level only"),
        (["a.zarr", "--levels", "0"], "--levels 0: write a number from 1 up, or auto"),
        (["a.zarr", "--factors", "q=2"], "--factors q=2: q is not an axis; write t, c, z, y or x"),
        (["a.zarr", "--factors", "z=0"], "outputs.coarser.pyramid.factors.z"),
        (["a.zarr", "--factors", "t=2"], "axis 't': the array's axes are z, y, x"),
        (["a.zarr", "--output", "a.zarr", "--levels", "1", "--factors", "x=2"], "is the input source already"),
        (["b.zarr"], "b.zarr does not exist"),
    ],
)
def test_refusals(data: Array, ndbatch: Command, words: list[str], sentence: str) -> None:
    refused = ndbatch("downsample", *words, "-q")
    assert refused.code == 2
    assert sentence in refused.err
    assert nb.open("a.zarr").levels == 1

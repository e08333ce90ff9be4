"""ndbatch from Python: functions over volumes, a look before the long run, dask arrays, observers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import csv, parquet

import ndbatch as nb
from ndbatch import events
from ndbatch.config.load import from_mapping
from ndbatch.errors import ConfigError, NdbatchError
from ndbatch.remotes import memory

Array = np.ndarray[Any, Any]

BLOCKS = {"z": 8, "y": 16, "x": 16}
FUNCTIONS = '''
import numpy as np


def double(image):
    return 2 * image


def brightest(image, block):
    return {"block": block.index, "max": int(image.max()), "z": block.core.start[0]}


def both(image, above=0):
    mask = image > above
    return mask.astype("uint8"), [{"voxels": int(mask.sum())}]


def weighted(signal, background, weight=1):
    return signal - weight * np.minimum(signal, background)


def reach(image, block):
    """The sum of what is seen, one number for all voxels of the core."""
    return np.full(block.core.shape, image.size, "uint16")
'''


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of functions of its own for every test, in the current folder."""
    name = f"functions_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    __import__(name)
    return sys.modules[name]


@pytest.fixture
def image(tmp_path: Path) -> nb.Volume:
    return volume(tmp_path / "image.zarr", 1)


def volume(path: Path, seed: int) -> nb.Volume:
    """A volume of 2 x 2 x 3 blocks, the last of each axis cut, that begins at z = 100."""
    data = np.random.default_rng(seed).integers(0, 1000, (14, 30, 40), dtype="uint16")
    made = nb.create(
        path, shape=data.shape, dtype=data.dtype, chunks=(8, 8, 8), offset=(100, 0, 0), voxel_size=(0.5, 0.25, 0.25)
    )
    made.write(made.domain, data)
    return made


def cores(data: Array) -> list[Array]:
    """Return the blocks in their order."""
    size = tuple(BLOCKS.values())
    places = np.ndindex(*(-(-n // b) for n, b in zip(data.shape, size, strict=True)))
    return [data[tuple(slice(p * b, (p + 1) * b) for p, b in zip(place, size, strict=True))] for place in places]


# -- map_blocks -------------------------------------------------------------------------------------------------------


def test_an_array_out(functions: Any, image: nb.Volume) -> None:
    result = nb.map_blocks(functions.double, image, "out.zarr", blocks=BLOCKS, cluster="threads", directory="work")
    assert (result.status, result.counts) == ("done", events.Counts(planned=12, done=12))
    out = nb.open("out.zarr")
    assert out.url == result.outputs["result"] == str(Path("out.zarr").absolute())
    assert out[...].dtype == image.dtype
    assert np.array_equal(out[...], 2 * image[...])
    assert (out.offset, out.voxel_size, out.axes) == (image.offset, image.voxel_size, image.axes)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_table_out(ending: str, functions: Any, image: nb.Volume) -> None:
    result = nb.map_blocks(functions.brightest, image, table=f"max.{ending}", blocks=BLOCKS, cluster="inline")
    path = Path(result.outputs["table"])
    table = (parquet.read_table(path) if ending == "parquet" else csv.read_csv(path)).to_pydict()
    assert path == Path.cwd() / f"max.{ending}"
    assert table["block"] == list(range(12))
    assert table["max"] == [int(core.max()) for core in cores(image[...])]
    assert table["z"] == [100] * 6 + [108] * 6
    assert result.rows == {"table": 12}


def test_an_array_and_a_table_out(functions: Any, image: nb.Volume) -> None:
    result = nb.map_blocks(
        functions.both,
        image,
        "mask.zarr",
        table="voxels.parquet",
        dtype="uint8",
        parameters={"above": 500},
        blocks=BLOCKS,
        cluster="inline",
    )
    mask = nb.open(result.outputs["result"])[...]
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, image[...] > 500)
    rows = parquet.read_table(result.outputs["table"])["voxels"].to_pylist()
    assert rows == [int((core > 500).sum()) for core in cores(image[...])]


def test_several_inputs_go_by_name(functions: Any, image: nb.Volume, tmp_path: Path) -> None:
    other = volume(tmp_path / "other.zarr", 2)
    result = nb.map_blocks(
        functions.weighted, {"background": other.url, "signal": image}, "out.zarr", blocks=BLOCKS, cluster="inline"
    )
    expected = image[...] - np.minimum(image[...], other[...])
    assert np.array_equal(nb.open(result.outputs["result"])[...], expected)


def test_inputs_that_the_function_does_not_name_are_refused(functions: Any, image: nb.Volume) -> None:
    with pytest.raises(ConfigError, match=r"weighted.*cannot be called"):
        nb.map_blocks(functions.weighted, {"signal": image, "dark": image}, "out.zarr", cluster="inline")
    assert not Path("out.zarr").exists()


def test_context_differs_by_axis_in_voxels_or_micrometres(functions: Any, image: nb.Volume) -> None:
    halo: dict[str, float | str] = {"z": "1 um", "x": 3}
    result = nb.map_blocks(functions.reach, image, "out.zarr", halo=halo, blocks=BLOCKS, cluster="inline")
    out = nb.open(result.outputs["result"])[...]
    assert out[0, 0, 0] == (8 + 2) * 16 * (16 + 3)
    assert out[0, 0, 20] == (8 + 2) * 16 * (16 + 6)
    assert out[-1, -1, -1] == (6 + 2) * 14 * (8 + 3)


def test_an_existing_volume_is_written_where_the_region_is(functions: Any, image: nb.Volume) -> None:
    out = nb.create("out.zarr", like=image)
    before = np.full(image.shape, 7, "uint16")
    out.write(out.domain, before)
    nb.map_blocks(functions.double, image, out, region={"z": (100, 108), "y": (16, 30)}, cluster="inline")
    before[:8, 16:] = 2 * image[...][:8, 16:]
    assert np.array_equal(nb.open("out.zarr")[...], before)


def test_the_same_call_goes_on(functions: Any, image: nb.Volume) -> None:
    def call() -> nb.Result:
        return nb.map_blocks(functions.double, image, "out.zarr", blocks=BLOCKS, cluster="inline")

    assert not call().nothing_to_do
    assert call().nothing_to_do


@pytest.mark.parametrize("kind", ["inline", "processes"])
def test_a_function_by_its_text(kind: str, functions: Any, image: nb.Volume) -> None:
    result = nb.map_blocks(f"{functions.__name__}:double", image.url, "out.zarr", cluster=kind)
    assert np.array_equal(nb.open(result.outputs["result"])[...], 2 * image[...])


def test_what_workers_could_not_import_is_refused(functions: Any, image: nb.Volume) -> None:
    def inside(image: Array) -> Array:
        return image

    for function in (lambda image: image, inside):
        with pytest.raises(ConfigError, match=r"no name that workers can import; define it with def at the top"):
            nb.map_blocks(function, image, "out.zarr", cluster="inline")
    assert not Path("out.zarr").exists()
    assert not Path("runs").exists()


def test_something_must_come_out(functions: Any, image: nb.Volume) -> None:
    with pytest.raises(ConfigError, match=r"give output=.*table=.*or both"):
        nb.map_blocks(functions.double, image)


# -- functions of the running script ------------------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path

import numpy as np
import ndbatch as nb

FACTOR = 3
with open("started", "a") as file:
    file.write(f"{__name__}\\n")


def triple(image):
    return FACTOR * image
"""
CALL = """
result = nb.map_blocks(triple, "image.zarr", "out.zarr", blocks={"z": 8}, cluster={"kind": sys.argv[1], "workers": 2})
print(result.status, result.counts.done)
"""


def script(text: str, kind: str) -> subprocess.CompletedProcess[str]:
    Path("job.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(Path(nb.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "job.py", kind], capture_output=True, text=True, timeout=180, env=environment, check=False
    )


def guarded(call: str) -> str:
    return "\nif __name__ == '__main__':" + call.replace("\n", "\n    ").rstrip(" ")


@pytest.mark.parametrize("kind", ["inline", "processes", "dask"])
@pytest.mark.parametrize("guard", [True, False], ids=["guarded", "unguarded"])
def test_a_function_of_the_script_itself(guard: bool, kind: str, functions: Any, image: nb.Volume) -> None:
    done = script(SCRIPT + (guarded(CALL) if guard else CALL), kind)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done 2\n", "")
    assert np.array_equal(nb.open("out.zarr")[...], 3 * image[...])
    assert Path("started").read_text().splitlines().count("__main__") == 1


def test_a_script_does_not_act_again_in_its_workers(functions: Any, image: nb.Volume) -> None:
    """A worker that made the output anew would undo what others have written."""
    making = 'out = nb.create("out.zarr", like=nb.open("image.zarr"), overwrite=True)\n'
    call = CALL.replace('"out.zarr"', "out")
    done = script(SCRIPT + making + call, "processes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done 2\n", "")
    assert np.array_equal(nb.open("out.zarr")[...], 3 * image[...])


def test_a_function_below_what_its_script_does_is_told(functions: Any, image: nb.Volume) -> None:
    making = 'import ndbatch as nb\nout = nb.create("out.zarr", like=nb.open("image.zarr"), overwrite=True)\n'
    done = script(making + SCRIPT + CALL.replace('"out.zarr"', "out"), "processes")
    assert done.stdout == "failed 0\n"
    log = next(Path("runs").rglob("run.log")).read_text()
    assert "job.py has no function 'triple' above the line where it creates a volume" in log
    assert "if __name__ == '__main__':" in log


# -- the look before the long run --------------------------------------------------------------------------------------


@pytest.fixture
def job(functions: Any, image: nb.Volume) -> dict[str, Any]:
    return {
        "name": "job",
        "inputs": {"image": image.url},
        "steps": [
            {"filter": {"input": "image", "sigma": 1, "output": "smooth"}},
            {"threshold": {"input": "smooth", "value": 500, "output": "bright"}},
            {"components": {"input": "bright", "output": "pieces"}},
            {"measure": {"labels": "pieces", "output": "table"}},
        ],
        "outputs": {"smooth": "smooth.zarr", "pieces": "pieces.h5", "table": "table.parquet"},
        "blocks": BLOCKS,
        "cluster": {"kind": "processes"},
    }


def test_a_trial_of_one_block(job: dict[str, Any], image: nb.Volume) -> None:
    from scipy import ndimage

    before = sorted(Path.cwd().rglob("*"))
    tried = nb.try_region(job, {"z": 101, "y": 20, "x": 20})
    assert tried.box == nb.Box((100, 16, 16), (108, 30, 32))
    assert set(tried.arrays) == {"image", "smooth", "pieces"}
    where = tried.box.slices(image.offset)
    assert np.array_equal(tried.arrays["image"][0], image[...][where])
    # Context is read beyond the block, so that nothing is seen of its edges.
    whole = ndimage.gaussian_filter(image[...].astype("float32"), (0.5, 1, 1))
    assert np.array_equal(tried.arrays["smooth"][0], whole[where])
    pieces = tried.arrays["pieces"][0]
    assert np.array_equal(pieces, ndimage.label(whole[where] > 500, np.ones((3, 3, 3)))[0])
    assert tried.tables["table"]["voxels"].to_pylist() == np.bincount(pieces.ravel())[1:].tolist()
    require_nothing_written(before)


def test_a_trial_of_one_plane(job: dict[str, Any], image: nb.Volume) -> None:
    before = sorted(Path.cwd().rglob("*"))
    tried = nb.try_region(job, {"z": 105}, slice_only=True)
    assert tried.box == nb.Box((105, 0, 0), (106, 30, 40))
    assert all(array.shape == (1, 30, 40) for array, _ in tried.arrays.values())
    assert np.array_equal(tried.arrays["image"][0][0], image[...][5])
    require_nothing_written(before)


@pytest.mark.parametrize("slice_only", [False, True])
def test_a_trial_of_coarser_arrays(slice_only: bool, job: dict[str, Any], image: nb.Volume, tmp_path: Path) -> None:
    """Coarser arrays are their voxels there, of whole windows; pyramids and shards of the outputs need no place."""
    from ndbatch.cli.trial import shown

    job["steps"][3:] = [
        {"downsample": {"input": "image", "factors": {"z": 2, "y": 2, "x": 2}, "method": "max", "output": "half"}},
        {"downsample": {"input": "pieces", "factors": {"y": 2, "x": 2}, "output": "few"}},
    ]
    job["outputs"] = {"pieces": {"url": "pieces.zarr", "pyramid": 2}, "half": "half.n5", "few": "few.tif"}
    tried = nb.try_region(job, {"z": 105, "y": 20, "x": 20}, slice_only=slice_only)
    half, box = tried.arrays["half"]
    whole = image[...].reshape(7, 2, 15, 2, 20, 2).max(axis=(1, 3, 5))
    assert box == tried.box.coarsened((2, 2, 2))
    assert np.array_equal(half, whole[box.slices((50, 0, 0))])
    assert tried.arrays["few"][0].shape == tried.box.coarsened((1, 2, 2)).shape
    lines = shown(tried, from_mapping(job), tmp_path / "look.png")
    assert [line for line in lines if "half: " in line and "uint16" in line]
    assert (tmp_path / "look.png").stat().st_size > 0


def test_a_trial_that_fails_leaves_nothing(job: dict[str, Any], functions: Any) -> None:
    before = sorted(Path.cwd().rglob("*"))
    step = {f"{functions.__name__}:weighted": {"inputs": {"signal": "image", "background": "image"}, "output": "out"}}
    step[f"{functions.__name__}:weighted"]["parameters"] = {"weight": "x"}
    with pytest.raises(NdbatchError, match="weighted raised"):
        nb.try_region({**job, "steps": [step], "outputs": {"out": "out.zarr"}})
    require_nothing_written(before)


def test_a_place_outside_is_told(job: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"at: the voxel z: \[3, 4\].*lies outside z: \[100, 114\]"):
        nb.try_region(job, {"z": 3})


def require_nothing_written(before: list[Path]) -> None:
    made = set(Path.cwd().rglob("*")) - set(before)
    assert not {path for path in made if "__pycache__" not in path.parts}
    assert not [name for name in memory._arrays if "try-" in name]


# -- runs, observers, dask ----------------------------------------------------------------------------------------------


def test_a_run_from_a_mapping_tells_observers_balanced_books(job: dict[str, Any]) -> None:
    told: list[events.Event] = []
    result = nb.run({**job, "cluster": {"kind": "threads", "workers": 2}}, observers=[told.append], report=False)
    assert result.directory == Path.cwd() / "runs/job"
    ends = [event for event in told if isinstance(event, events.StageEnded | events.RunEnded)]
    assert all(event.counts.balanced for event in ends)
    stages = [event.counts for event in ends if isinstance(event, events.StageEnded)]
    assert [counts.done for counts in stages] == [12] * len(stages)
    assert isinstance(told[0], events.RunStarted)
    assert isinstance(told[-1], events.RunEnded)
    assert told[-1].counts == result.counts == sum(stages, events.Counts())
    done = [event for event in told if isinstance(event, events.BlocksDone)]
    assert sum(event.blocks for event in done) == result.counts.done
    assert sum(event.voxels for event in done) == len(stages) * 14 * 30 * 40


def test_an_observer_that_raises_is_not_swallowed(job: dict[str, Any]) -> None:
    def observer(event: events.Event) -> None:
        raise RuntimeError("the observer is broken")

    with pytest.raises(RuntimeError, match="the observer is broken"):
        nb.run({**job, "cluster": {"kind": "inline"}}, observers=[observer], report=False)


def test_outputs_of_a_run_in_dask_and_back(job: dict[str, Any], image: nb.Volume) -> None:
    result = nb.run({**job, "cluster": {"kind": "inline"}}, report=False)
    smooth, pieces = (nb.open(result.outputs[name]) for name in ("smooth", "pieces"))
    means = (smooth.dask() * (pieces.dask() > 0)).astype("float32")
    out = nb.create("means.zarr", like=smooth, chunks=(5, 9, 11))
    nb.store(means, out)
    assert np.array_equal(out[...], np.where(pieces[...] > 0, smooth[...], 0))

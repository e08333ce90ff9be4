"""Whatever is wrong, one sentence says what, where and what to do; nothing is left that looks whole and is not."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile

import ndbatch as nb

from .conftest import BLOCK, SHAPE, Job, Mount, files

STEP = {"input": "image", "output": "out"}

REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a missing input": ({"inputs": {"image": "gone.tif"}}, ("inputs.image", "gone.tif", "does not exist")),
    "an unknown ending": ({"inputs": {"image": "gone.xyz"}}, ("inputs.image", "gone.xyz", "format")),
    "an unknown step": ({"steps": [{"nucleii": STEP}]}, ("'nucleii'", "did you mean nuclei?")),
    "an unknown axis of the region": ({"region": {"w": [0, 1]}}, ("region.w", "'w' is not an axis")),
    "an axis the volume lacks": ({"region": {"t": [0, 1]}}, ("region.t", "z, y, x")),
    "a block along an axis the volume lacks": ({"blocks": {"c": 1}}, ("blocks.c", "z, y, x")),
    "a chunk along an axis the volume lacks": (
        {"outputs": {"out": {"url": "out.zarr", "chunks": {"c": 1}}}},
        ("outputs.out.chunks", "'c'", "z, y, x"),
    ),
    "a region outside": ({"region": {"z": [8, 17]}}, ("region.z: [8, 17]", "not inside the volume", "[0, 16]")),
    "a region outside, by length": ({"region": {"z": ["0 um", "50 um"]}}, ("region.z: [0, 25]", "[0, 16]")),
    "a misaligned block": (
        {"blocks": {"z": 8, "y": 24, "x": 16}},
        ("y: 24 is not a whole number of 16", "use y: 32"),
    ),
    "an unknown kind of cluster": (
        {"cluster": {"kind": "proceses"}},
        ("cluster.kind", "'proceses'", "did you mean processes?"),
    ),
    "no block fits the memory": (
        {"cluster": {"kind": "inline", "memory": "100 MB"}},
        ("a worker may use", "raise cluster: memory"),
    ),
    "a token for a file on a web server": (
        {"inputs": {"image": {"url": "https://example.org/a.zarr", "token": {"env": "NDBATCH_NO_SUCH"}}}},
        ("inputs.image", "is not a service and takes no token"),
    ),
    "a block that does not fit the memory": (
        {
            "steps": [{"os.path:join": {**STEP, "memory": 20000.0}}],
            "cluster": {"kind": "inline", "memory": "400 MB"},
            "blocks": {"z": 16, "y": 32, "x": 32},
        },
        ("blocks of z: 16, y: 32, x: 32 need", "a worker may use 0.37 GiB", "would fit"),
    ),
    "ids into floating point": (
        {
            "steps": [{"threshold": {**STEP, "output": "mask", "value": 9}}, {"components": {**STEP, "input": "mask"}}],
            "outputs": {"out": {"url": "out.zarr", "dtype": "float32"}},
        },
        ("step 2 (components)", "out", "float32", "use uint32 or uint64"),
    ),
    "an output onto the input": (
        {"outputs": {"out": {"url": "../../image.zarr", "chunks": BLOCK}}},
        ("outputs.out", "image.zarr", "is the input image", "choose another url"),
    ),
    "an output that no table can be": ({"outputs": {"out": "out.csv"}}, ("outputs.out", "out.csv", "out.zarr")),
    "an output of a format that is only read": ({"outputs": {"out": "out.xyz"}}, ("out.xyz", "format")),
    "an output whose parent is a file": ({"outputs": {"out": {"url": "../../job.yaml/out.zarr"}}}, ("job.yaml",)),
    "an output without ending whose parent is a file": (
        {"outputs": {"out": {"url": "precomputed://../../job.yaml/out"}}},
        ("outputs.out", "job.yaml is a file, not a folder"),
    ),
    "an output on a web server": (
        {"outputs": {"out": {"url": "http://127.0.0.1:9/out.zarr"}}},
        ("outputs.out", "web server, which is only read"),
    ),
    "shards that are no whole number of chunks": (
        {"outputs": {"out": {"url": "out.zarr", "chunks": BLOCK, "shards": {"z": 8, "y": 24, "x": 32}}}},
        ("outputs.out.shards: y: 24 is not a whole number of chunks of y: 16", "shards: {y: 32}"),
    ),
    "a mean of labels": (
        {
            "inputs": {"image": {"url": "image.zarr", "kind": "labels"}},
            "steps": [{"downsample": {**STEP, "method": "mean"}}],
        },
        ("step 1 (downsample): a mean of labels is no label; use method: mode",),
    ),
    "a pyramid of medians of labels": (
        {
            "inputs": {"image": {"url": "image.zarr", "kind": "labels"}},
            "outputs": {"out": {"url": "out.zarr", "pyramid": {"levels": 1, "method": "median"}}},
        },
        ("outputs.out.pyramid: level 1: a median of labels is no label",),
    ),
    "inputs that lie apart": (
        {
            "inputs": {"image": "image.zarr", "other": {"url": "image.zarr", "offset": {"z": 3}}},
            "steps": [{"arithmetic": {"inputs": {"a": "image", "b": "other"}, "expression": "a + b", "output": "out"}}],
        },
        ("z: [0, 16], y: [0, 32], x: [0, 32] and z: [3, 19]", "resample"),
    ),
    "a run directory that is a file": ({"directory": "job.yaml"}, ("job.yaml",)),
    "a secret where no service is": (
        {"inputs": {"image": {"url": "image.zarr", "token": {"env": "NDBATCH_NO_SUCH"}}}},
        ("inputs.image", "token", "is not a service"),
    ),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=list(REFUSED))
def test_refused_before_anything_is_written(ndbatch: Job, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    ndbatch.configure(**changes)
    before = files(ndbatch.folder)
    ndbatch("run", "job.yaml").refused(*words)
    assert files(ndbatch.folder) == before
    assert not (ndbatch.folder / "runs").exists()


def test_an_unknown_key_is_told_with_its_line_and_the_nearest(ndbatch: Job) -> None:
    ndbatch.configure(blokcs={"z": 8})
    line = (ndbatch.folder / "job.yaml").read_text().splitlines().index("blokcs:") + 1
    ndbatch.alone("run", "job.yaml").refused(f"job.yaml:{line}: blokcs: unknown key; did you mean blocks?")


def test_a_wrong_type_is_told_with_its_line(ndbatch: Job) -> None:
    ndbatch.configure(time_limit=["soon"])
    ndbatch.alone("run", "job.yaml").refused("job.yaml:", "time_limit", "must be")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n"])
def test_an_empty_configuration(ndbatch: Job, text: str) -> None:
    (ndbatch.folder / "job.yaml").write_text(text)
    ndbatch("run", "job.yaml").refused("job.yaml", "empty")


def test_a_configuration_that_is_no_text(ndbatch: Job) -> None:
    (ndbatch.folder / "job.yaml").write_bytes(bytes(range(256)))
    ndbatch("run", "job.yaml").refused("job.yaml")


def test_a_missing_configuration(ndbatch: Job) -> None:
    ndbatch.alone("run", "absent.yaml").refused("absent.yaml", "no such file", "ndbatch init")


def tiff(path: Path, **options: Any) -> bytes:
    tifffile.imwrite(path, np.arange(8 * 64 * 64, dtype="uint16").reshape(8, 64, 64), **options)
    return path.read_bytes()


def hdf5(path: Path) -> bytes:
    with h5py.File(path, "w") as file:
        file.create_dataset("raw", data=np.arange(16**3, dtype="uint16").reshape(16, 16, 16), chunks=(8, 8, 8))
        file.create_dataset("group/labels", data=np.zeros((16, 16, 16), "uint32"))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("image.tif", b""),
        ("image.tif", b"II*\0"),
        ("image.tif", b"a letter to a friend, not a picture\n" * 40),
        ("image.h5", b""),
        ("image.h5", b"\x89HDF\r\n\x1a\n"),
        ("image.h5", b"a letter to a friend, not a picture\n" * 40),
    ],
)
def test_a_file_that_is_not_what_its_name_says(ndbatch: Job, name: str, content: bytes) -> None:
    (ndbatch.folder / name).write_bytes(content)
    url = name + ("::/raw" if name.endswith("h5") else "")
    ndbatch.configure(inputs={"image": url})
    before = files(ndbatch.folder)
    ndbatch("run", "job.yaml").refused("inputs.image", name)
    assert files(ndbatch.folder) == before


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("name", ["image.tif", "packed.tif", "image.h5"])
def test_a_truncated_file_is_refused_or_fails_its_blocks(ndbatch: Job, name: str, share: float) -> None:
    """What is cut off is missed at the start where metadata shows it, else by the blocks that need it."""
    path = ndbatch.folder / name
    whole = hdf5(path) if name.endswith("h5") else tiff(path, compression="zlib" if name == "packed.tif" else None)
    path.write_bytes(whole[: int(share * len(whole))])
    ndbatch.configure(
        inputs={"image": name + ("::/raw" if name.endswith("h5") else "")}, blocks="auto", outputs={"out": "out.zarr"}
    )
    told = ndbatch("run", "job.yaml", "--quiet")
    if told.code == 2:
        told.refused("inputs.image", name)
        assert not ndbatch.run.exists()
    else:
        told.failed(name)
        assert not nb.open(f"{ndbatch.run}/out.zarr").attributes["complete"]


def test_voxels_of_a_type_that_no_volume_holds(ndbatch: Job) -> None:
    tifffile.imwrite(ndbatch.folder / "waves.tif", np.zeros((8, 16, 16), "complex64"))
    ndbatch.configure(inputs={"image": "waves.tif"}, blocks="auto", outputs={"out": "out.zarr"})
    ndbatch("run", "job.yaml").refused("outputs.out", "complex64", "dtype")
    assert not ndbatch.run.exists()


def test_a_dataset_that_is_not_in_the_file(ndbatch: Job) -> None:
    hdf5(ndbatch.folder / "image.h5")
    ndbatch.configure(inputs={"image": "image.h5::/wra"})
    ndbatch("run", "job.yaml").refused("inputs.image", "image.h5", "wra", "/raw", "/group/labels")
    ndbatch.configure(inputs={"image": "image.h5::/group"})
    ndbatch("run", "job.yaml").refused("inputs.image", "image.h5", "/group/labels")


def test_a_zarr_without_its_metadata(ndbatch: Job) -> None:
    for path in (ndbatch.folder / "image.zarr").rglob("zarr.json"):
        path.write_text("{")
    ndbatch("run", "job.yaml").refused("inputs.image", "image.zarr")
    assert not ndbatch.run.exists()


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_a_truncated_chunk_fails_its_block_alone(ndbatch: Job, kind: str) -> None:
    chunk = ndbatch.folder / "image.zarr/0/c/1/0/1"
    chunk.write_bytes(chunk.read_bytes()[:20])
    ndbatch.configure(cluster={"kind": kind, "workers": 2})
    ndbatch.alone("run", "job.yaml", "--quiet").failed(
        "1 block failed; 7 of 8 are done and kept",
        "block 5 (z: [8, 16], y: [0, 16], x: [16, 32])",
        "image.zarr",
        "c/1/0/1",
        "ndbatch retry job.yaml",
    )
    assert nb.open(f"{ndbatch.run}/out.zarr").attributes["complete"] is False
    assert "Traceback" in (ndbatch.run / "run.log").read_text()


def test_no_table_is_written_where_blocks_failed(ndbatch: Job) -> None:
    chunk = ndbatch.folder / "image.zarr/0/c/1/0/1"
    chunk.write_bytes(chunk.read_bytes()[:20])
    ndbatch.function(
        "def work(image):\n    return [{'sum': int(image.sum())}]\n",
        step={"table": "rows", "output": None},
        outputs={"rows": "rows.parquet"},
    )
    ndbatch("run", "job.yaml", "--quiet").failed("block 5")
    assert not list(ndbatch.run.glob("*rows*"))


def test_two_outputs_to_one_target(ndbatch: Job) -> None:
    steps = [{"copy": STEP}, {"copy": {"input": "image", "output": "second"}}]
    for one, two in (
        ("out.zarr", "out.zarr"),
        ("out.zarr", "./out.zarr"),
        ("out.zarr", "zarr://out.zarr"),
        ("o.h5::/a", "o.h5::/a"),
    ):
        ndbatch.configure(steps=steps, outputs={"out": one, "second": two}, blocks="auto")
        ndbatch("run", "job.yaml").refused("outputs.second", "out")
        assert not ndbatch.run.exists()


def test_a_target_of_another_shape(ndbatch: Job) -> None:
    other = nb.create(f"{ndbatch.folder}/there.zarr", shape=(4, 4, 4), dtype="uint16")
    other.write(other.domain, np.full((4, 4, 4), 7, "uint16"))
    before = files(ndbatch.folder / "there.zarr")
    for create in (True, False):
        ndbatch.configure(outputs={"out": {"url": f"{ndbatch.folder}/there.zarr", "create": create}}, blocks="auto")
        ndbatch("run", "job.yaml").refused("outputs.out", "there.zarr")
        assert files(ndbatch.folder / "there.zarr") == before
        assert not ndbatch.run.exists()


def test_a_target_that_is_not_there_is_not_replaced(ndbatch: Job) -> None:
    ndbatch.configure(outputs={"out": {"url": f"{ndbatch.folder}/there.zarr", "create": False}}, blocks="auto")
    ndbatch("run", "job.yaml").refused("outputs.out", "there.zarr")
    assert not (ndbatch.folder / "there.zarr").exists()


def test_a_table_that_is_there_already(ndbatch: Job) -> None:
    (ndbatch.folder / "rows.csv").write_text("mine\n")
    ndbatch.function(
        "def work(image):\n    return [{'a': 1}]\n",
        step={"table": "rows", "output": None},
        outputs={"rows": f"{ndbatch.folder}/rows.csv"},
    )
    ndbatch("run", "job.yaml").refused("outputs.rows", "rows.csv", "exists already")
    assert (ndbatch.folder / "rows.csv").read_text() == "mine\n"


def test_lengths_without_a_voxel_size(ndbatch: Job) -> None:
    tiff(ndbatch.folder / "image.tif")
    for changes in (
        {"region": {"z": ["0 um", "3 um"]}},
        {"steps": [{"nuclei": {**STEP, "diameter": "11 um"}}]},
        {"steps": [{"filter": {**STEP, "method": "gaussian", "sigma": "1 um"}}]},
    ):
        ndbatch.configure(inputs={"image": "image.tif"}, blocks="auto", outputs={"out": "out.zarr"}, **changes)
        ndbatch("run", "job.yaml").refused("voxel_size", "um")


def test_ids_that_the_dtype_cannot_hold(ndbatch: Job) -> None:
    """How many components there are is known after the first pass, before the first voxel is written."""
    data = np.zeros(SHAPE, "uint8")
    data[::2, ::2, ::2] = 1
    volume = nb.create(f"{ndbatch.folder}/mask.zarr", shape=SHAPE, dtype="uint8", chunks=tuple(BLOCK.values()))
    volume.write(volume.domain, data)
    ndbatch.configure(
        inputs={"mask": "mask.zarr"},
        steps=[{"components": {"input": "mask", "output": "out"}}],
        outputs={"out": {"url": "out.zarr", "dtype": "uint8", "chunks": BLOCK}},
    )
    ndbatch.alone("run", "job.yaml").failed("2048 components do not fit into out", "uint8", "set dtype: uint16")
    made = nb.open(f"{ndbatch.run}/out.zarr")
    assert made.attributes["complete"] is False
    assert not made.read(made.domain).any()
    assert json.loads(ndbatch("status", "job.yaml", "--json").out)["status"] == "failed"


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_values_that_the_dtype_cannot_hold(ndbatch: Job, dtype: str) -> None:
    ndbatch.configure(outputs={"out": {"url": "out.zarr", "dtype": dtype, "chunks": BLOCK}})
    top = np.iinfo(dtype).max
    few = {"z": [0, 8]} if dtype == "uint8" else {"z": [8, 16]}
    ndbatch.configure(outputs={"out": {"url": "out.zarr", "dtype": dtype, "chunks": BLOCK}}, region=few)
    ndbatch("run", "job.yaml", "--quiet").failed(
        "out", f"does not fit {dtype}", f"to {top}", "set dtype: uint16", "block 0"
    )
    assert nb.open(f"{ndbatch.run}/out.zarr").attributes["complete"] is False


FULL = ("-t", "tmpfs", "-o", "size=100k", "tmpfs")


def noise(job: Job) -> None:
    """Write noise.zarr, which no codec makes smaller: 256 kB."""
    volume = nb.create(f"{job.folder}/noise.zarr", shape=(32, 64, 64), dtype="uint16", chunks=(8, 32, 32))
    volume.write(volume.domain, np.random.default_rng(5).integers(0, 65536, (32, 64, 64), dtype="uint16"))


def test_no_space_left_for_the_output(ndbatch: Job, mount: Mount) -> None:
    noise(ndbatch)
    full = mount(ndbatch.folder / "full", *FULL)
    ndbatch.configure(
        inputs={"image": "noise.zarr"}, outputs={"out": f"{full}/out.zarr"}, blocks={"z": 8, "y": 32, "x": 32}
    )
    ndbatch.alone("run", "job.yaml", "--quiet").failed(
        "full/out.zarr", "no room to write", "free some space", "ndbatch retry job.yaml"
    )
    assert nb.open(f"{full}/out.zarr").attributes["complete"] is False


def test_no_space_left_for_a_file_that_is_written_at_the_end(ndbatch: Job, mount: Mount) -> None:
    noise(ndbatch)
    full = mount(ndbatch.folder / "full", *FULL)
    for name in ("out.h5::/out", "out.tif"):
        ndbatch.configure(
            inputs={"image": "noise.zarr"}, outputs={"out": f"{full}/{name}"}, blocks="auto", name=name[-3:]
        )
        ndbatch.alone("run", "job.yaml", "--quiet").failed("full/", "no room to write", "free some space")
        assert not (full / name.partition("::")[0]).exists()


@pytest.mark.parametrize("size", ["40k", "200k"])
def test_no_space_left_for_the_run_directory(ndbatch: Job, mount: Mount, size: str) -> None:
    full = mount(ndbatch.folder / "full", "-t", "tmpfs", "-o", f"size={size}", "tmpfs")
    noise(ndbatch)
    ndbatch.configure(
        inputs={"image": "noise.zarr"},
        directory="full/job",
        outputs={"out": f"{ndbatch.folder}/out.zarr"},
        blocks={"z": 8, "y": 8, "x": 8},
    )
    told = ndbatch.alone("run", "job.yaml", "--quiet")
    assert told.code in (1, 2), told.said
    assert told.err.count("error:") == 1, told.said
    assert "full/job" in told.err
    assert "Traceback" not in told.said
    if (ndbatch.folder / "out.zarr").exists():
        assert nb.open(f"{ndbatch.folder}/out.zarr").attributes["complete"] is False
    assert full.exists()


def test_no_permission_to_write(ndbatch: Job, mount: Mount) -> None:
    locked = mount(ndbatch.folder / "locked", "-t", "tmpfs", "-o", "ro", "tmpfs")
    for changes in (
        {"outputs": {"out": f"{locked}/out.zarr"}},
        {"outputs": {"out": f"{locked}/new/out.zarr"}},
        {"directory": "locked/job"},
    ):
        ndbatch.configure(blocks="auto", **changes)
        ndbatch.alone("run", "job.yaml", "--quiet").refused("locked")
        assert not list(locked.iterdir())
        shutil.rmtree(ndbatch.folder / "runs", ignore_errors=True)


def test_no_permission_to_write_a_file_or_a_table(ndbatch: Job, mount: Mount) -> None:
    locked = mount(ndbatch.folder / "locked", "-t", "tmpfs", "-o", "ro", "tmpfs")
    ndbatch.configure(blocks="auto", outputs={"out": f"{locked}/out.h5::/out"})
    ndbatch("run", "job.yaml", "--quiet").refused("outputs.out", "locked", "cannot be written to")
    ndbatch.function(
        "def work(image):\n    return [{'a': 1}]\n",
        step={"table": "rows", "output": None},
        outputs={"rows": f"{locked}/rows.csv"},
    )
    ndbatch("run", "job.yaml", "--quiet").refused("outputs.rows", "locked", "cannot be written to")


def test_a_function_that_is_not_there(ndbatch: Job) -> None:
    (ndbatch.folder / "work.py").write_text("def segment(image):\n    return image\n")
    cases = {
        "wrok:segment": ("wrok", "did you mean work?"),
        "no_such_module:f": ("no_such_module", "cannot be found", "put no_such_module.py beside"),
        "work:segmnt": ("work", "'segmnt'", "did you mean segment?"),
        "absent.py:f": ("absent.py", "does not exist"),
        "work:": ("work:",),
    }
    for name, words in cases.items():
        ndbatch.configure(steps=[{name: STEP}])
        ndbatch("run", "job.yaml").refused("step", *words)
        assert not ndbatch.run.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def work(image:\n", ("work", "SyntaxError")),
        ("1 / 0\n", ("work", "ZeroDivisionError")),
        ("import no_such_package\n", ("work", "no_such_package", "not installed")),
        ("raise SystemExit(4)\n", ("work", "SystemExit")),
        ("work = 3\n", ("work", "int, not a function")),
        ("def work():\n    return 1\n", ("work",)),
    ],
)
def test_a_module_that_does_not_import(ndbatch: Job, text: str, words: tuple[str, ...]) -> None:
    ndbatch.function(text)
    ndbatch("run", "job.yaml").refused("step 1", *words)
    assert not ndbatch.run.exists()


WRONG = {
    "raises": (
        "if block.index == 5:\n        raise ValueError('no light')",
        ("raised ValueError: no light (work.py, line 4)",),
    ),
    "exits": ("if block.index == 5:\n        raise SystemExit(4)", ("SystemExit",)),
    "shape": (
        "if block.index == 5:\n        return image[1:]",
        ("returned shape (7, 16, 16) where (8, 16, 16) is due",),
    ),
    "dtype": ("if block.index == 5:\n        return image * 0.5", ("returned float64", "uint16")),
    "None": (
        "if block.index == 5:\n        return None",
        ("returned nothing (None)", "does it return one at its end?"),
    ),
    "text": ("if block.index == 5:\n        return 'done'", ("returned",)),
    "no Exception": (
        "if block.index == 5:\n        raise type('Odd', (BaseException,), {})('as it is')",
        ("raised Odd: as it is",),
    ),
    "recursion": ("if block.index == 5:\n        return work(image, block)", ("RecursionError",)),
    "no sentence": ("if block.index == 5:\n        raise KeyError()", ("raised KeyError",)),
    "several lines": (
        "if block.index == 5:\n        raise ValueError('one\\ntwo\\nthree')",
        ("raised ValueError: one",),
    ),
}


@pytest.mark.parametrize("kind", ["inline", "threads"])
@pytest.mark.parametrize(("body", "words"), WRONG.values(), ids=list(WRONG))
def test_a_function_that_fails(ndbatch: Job, body: str, words: tuple[str, ...], kind: str) -> None:
    ndbatch.function(
        f"\ndef work(image, block):\n    {body}\n    return image\n", step={"dtype": "uint16"}, cluster={"kind": kind}
    )
    ndbatch("run", "job.yaml", "--quiet").failed(
        "1 block failed; 7 of 8 are done and kept", "block 5 (z: [8, 16], y: [0, 16], x: [16, 32])", "work:work", *words
    )
    made = nb.open(f"{ndbatch.run}/out.zarr")
    assert made.attributes["complete"] is False
    assert np.array_equal(made.read(made.domain)[:8], ndbatch.image()[:8])


HARMS = {
    "hangs": ("time.sleep(600)", ("TimeLimit", "time_limit, 1 s", "raise time_limit")),
    "eats": ("hoard = [np.ones(4_000_000) for _ in iter(int, 1) if not time.sleep(0.003)]", ("OutOfMemory", "memory")),
    "kills": ("os.kill(os.getpid(), 9)", ("WorkerKilled", "SIGKILL")),
    "leaves": ("os._exit(5)", ("WorkerKilled", "5")),
}


@pytest.mark.parametrize(("body", "words"), HARMS.values(), ids=list(HARMS))
def test_a_function_that_harms_its_process(ndbatch: Job, body: str, words: tuple[str, ...]) -> None:
    text = f"""\
import os, time
import numpy as np

def work(image, block):
    if block.index == 5:
        {body}
    return image
"""
    ndbatch.function(
        text,
        cluster={"kind": "processes", "workers": 2, "memory": "400 MB"},
        time_limit=1 if "sleep(600)" in body else None,
    )
    begun = time.monotonic()
    ndbatch.alone("run", "job.yaml", "--quiet").failed(
        "1 block failed; 7 of 8 are done and kept", "block 5 (z: [8, 16], y: [0, 16], x: [16, 32])", *words
    )
    assert time.monotonic() - begun < 300
    assert nb.open(f"{ndbatch.run}/out.zarr").attributes["complete"] is False


def test_a_second_driver_is_refused_and_the_first_goes_on(ndbatch: Job) -> None:
    ndbatch.function(
        "import os, time\n\ndef work(image):\n    while not os.path.exists('go'):\n        time.sleep(0.05)\n    return image\n"
    )
    first = ndbatch.start("run", "job.yaml", "--quiet")
    try:
        _wait_for(ndbatch.run / "out.zarr/zarr.json")
        ndbatch("run", "job.yaml").refused("runs/job", f"in use by process {first.pid}")
        ndbatch("run", "job.yaml", "--fresh").refused("runs/job", f"in use by process {first.pid}")
        ndbatch("check", "runs/job", "--rebuild").refused("runs/job", f"in use by process {first.pid}")
        (ndbatch.folder / "go").touch()
        out, err = first.communicate(timeout=180)
        assert first.returncode == 0, out + err
    finally:
        first.kill()
        first.communicate()
    made = nb.open(f"{ndbatch.run}/out.zarr")
    assert np.array_equal(made.read(made.domain), ndbatch.image())
    assert made.attributes["complete"] is True


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 180
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)

"""The verbs that compute nothing, the look before the run, and how mistakes are told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml

from ndbatch.remotes import api
from ndbatch.steps.registry import step_names

if TYPE_CHECKING:
    from conftest import Command, Start

HEAVY = {
    "numpy", "scipy", "pandas", "dask", "distributed", "tensorstore", "pyarrow", "h5py", "matplotlib", "skimage", "zarr",
    "tifffile", "pydantic", "yaml", "sqlite3", "rich",
}  # fmt: skip
VERBS = [
    "run", "try", "plan", "retry", "status", "attach", "report", "check", "init", "schema", "config", "info", "show", "ls", "rm",
    "copy", "downsample", "ingest", "objects", "serve", "points",
]  # fmt: skip


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ndbatch.cli.app import main\ntry:\n    main(['--help'])\n"
        "except SystemExit:\n    print('MODULES', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    help_text, _, modules = done.stdout.partition("MODULES")
    assert re.findall(r"^  ([a-z]+)  ", help_text, re.MULTILINE) == VERBS
    assert not HEAVY & set(modules.split())
    assert len(modules.split()) < 400


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, ndbatch: Command) -> None:
    shown = ndbatch(verb, "--help")
    assert shown.code == 0
    assert shown.out.startswith(f"Usage: ndbatch {verb} ")
    assert "--help" in shown.out


def test_version(ndbatch: Command) -> None:
    from importlib.metadata import version

    assert ndbatch("--version").out == f"ndbatch {version('ndbatch')}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["rn"], "No such command 'rn'"),
        (["run"], "Missing argument 'CONFIG'"),
        (["run", "job.yaml", "--fast"], "No such option: --fast"),
        (["run", "absent.yaml"], "error: absent.yaml: no such file; ndbatch init STEP --output absent.yaml writes one"),
        (["run", "runs"], "error: runs is a folder; give a configuration file"),
        (
            ["plan", "job.yaml", "--set", "retry"],
            "error: --set retry: write KEY=VALUE, such as --set cluster.workers=2",
        ),
        (["run", "job.yaml", "--set", "inputs.image.url=gone.zarr"], "gone.zarr does not exist"),
        (["run", "job.yaml", "--set", "region={z: [0, 99]}"], "error: region.z: [0, 99] is not inside the volume"),
        (
            ["try", "job.yaml", "--at", "z"],
            "error: --at z: write a voxel for each named axis, such as --at z=10,y=100,x=100",
        ),
        (["try", "job.yaml", "--at", "z=99"], "lies outside"),
        (["init", "nucleii"], "error: unknown step 'nucleii'; did you mean nuclei?"),
        (["info", "image.xyz"], "error: 'image.xyz': cannot tell the format from the ending"),
        (["show", "image.zarr", "--z", "1", "--y", "1"], "error: show takes one of --z, --y, --x and --project"),
        (["show", "image.zarr", "--z", "99"], "error: position z = 99 is outside; z goes from 0 to 15"),
        (["show", "image.zarr", "-o", "no/where.png"], "error: --output no/where.png cannot be written"),
        (["status", "absent"], "error: absent: no such file"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_refusals_are_one_sentence_and_exit_2(words: list[str], sentence: str, job: Path, ndbatch: Command) -> None:
    (job / "runs").mkdir()
    refused = ndbatch(*words)
    assert (refused.code, refused.out) == (2, "")
    assert sentence in refused.err
    assert not list((job / "runs").iterdir()), "nothing is begun"


def test_several_mistakes_are_listed(job: Path, ndbatch: Command) -> None:
    refused = ndbatch("run", "job.yaml", "--set", "cluster.kind=proceses", "--set", "retry.wait=soon")
    assert refused.code == 2
    assert refused.err.splitlines() == [
        "error: 2 problems",
        "  --set cluster.kind=proceses: cluster.kind: must be inline, threads, processes, local, dask, slurm, lsf, pbs, "
        "sge or htcondor, not 'proceses'; did you mean processes?",
        "  --set retry.wait=soon: retry.wait: must be a number, not 'soon'",
    ]  # fmt: skip


def test_what_a_run_recorded_of_itself_is_told_as_the_file_has_it(job: Path, ndbatch: Command) -> None:
    ndbatch("run", "job.yaml", "--quiet")
    lines = ndbatch("info", str(next(job.rglob("half.zarr")))).out.splitlines()
    assert "  complete: true" in lines
    assert [line for line in lines if line.startswith('  provenance: {"')]


def test_markup_in_names_is_shown_as_it_is(job: Path, ndbatch: Command) -> None:
    assert "error: [red]x[/red].yaml: no such file" in ndbatch("run", "[red]x[/red].yaml").err
    (job / "job.yaml").rename(job / "[b].yaml")
    shown = ndbatch("plan", "[b].yaml", "--set", "outputs.half.url='[red]a.zarr'")
    assert "[red]a.zarr (image, uint8, 16x32x32" in shown.out


def test_a_mistake_of_ndbatch_itself_leaves_its_traceback_in_a_file(
    job: Path, ndbatch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ndbatch("run", "job.yaml", "--quiet")

    def broken(directory: Path) -> Path:
        raise ZeroDivisionError("by a test")

    monkeypatch.setattr("ndbatch.report.html.write_report", broken)
    failed = ndbatch("report", "job.yaml")
    assert failed.code == 1
    said = re.fullmatch(
        r"error: ndbatch itself failed \(ZeroDivisionError: by a test\); please report it with the file (\S+)\n",
        failed.err,
    )
    assert said is not None
    text = Path(said[1]).read_text()
    Path(said[1]).unlink()
    assert "Traceback" in text
    assert "ZeroDivisionError: by a test" in text


def test_an_error_of_the_system_is_one_sentence(job: Path, ndbatch: Command) -> None:
    refused = ndbatch("init", "copy", "--output", "no/such/folder.yaml")
    assert (refused.code, refused.err) == (2, "error: no/such/folder.yaml: No such file or directory\n")


def test_a_pipe_that_closes_early_is_no_mistake(job: Path, start: Start) -> None:
    process = start("init", "copy")
    assert process.stdout is not None
    process.stdout.close()
    process.wait(timeout=180)
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_plan_shows_stages_and_what_they_take(job: Path, ndbatch: Command) -> None:
    shown = ndbatch("plan", "job.yaml")
    lines = shown.out.splitlines()
    assert lines[0] == "halves: 16,384 voxels in 8 blocks"
    assert "  region   z: [0, 16], y: [0, 32], x: [0, 32]" in lines
    assert "  voxel    z: 0.5, y: 0.2, x: 0.2 um" in lines
    assert "  block    z: 8, y: 16, x: 16; 2 x 2 x 2 of them" in lines
    assert f"  reads    image: {job / 'image.zarr'} (image, uint8, 16x32x32, chunks 8x16x16)" in lines
    (row,) = [line.split() for line in lines if line.startswith("1 ")]
    assert row[2:4] == ["8", "-"]
    assert row[4:8] == ["16.4", "kB", "16.4", "kB"]
    assert not (job / "runs").exists()


def test_try_writes_nothing_but_the_picture(job: Path, ndbatch: Command) -> None:
    before = sorted(job.rglob("*"))
    shown = ndbatch("try", "job.yaml", "--at", "z=9,y=3", "--picture", "look.png")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0].startswith("halves: tried z: [8, 16], y: [0, 16], x: [16, 32] in ")
    block = api.open("image.zarr", base=job)[8:16, 0:16, 16:32]
    assert f"  image: {block.min():g} to {block.max():g}, mean {block.mean():.4g} (uint8)" in lines
    assert f"  half: {(block // 2).min():g} to {(block // 2).max():g}, mean {(block // 2).mean():.4g} (uint8)" in lines
    made = {path for path in job.rglob("*") if "__pycache__" not in path.parts} - set(before)
    assert made == {job / "look.png"}
    assert (job / "look.png").read_bytes().startswith(b"\x89PNG")
    sliced = ndbatch("try", "job.yaml", "--slice", "--at", "z=2", "--picture", "slice.png")
    assert sliced.out.startswith("halves: tried z: [2, 3], y: [0, 32], x: [0, 32] in ")


def test_try_tells_what_the_function_raised(job: Path, ndbatch: Command) -> None:
    (job / "work.py").write_text("def half(image):\n    return image.nothing\n")
    failed = ndbatch("try", "job.yaml")
    assert failed.code == 1
    assert (
        "work.py:half raised AttributeError: 'numpy.ndarray' object has no attribute 'nothing' (work.py, line 2)"
        in failed.err
    )


def test_init_lists_the_steps_and_writes_a_configuration(job: Path, ndbatch: Command) -> None:
    listed = ndbatch("init").out
    assert set(step_names()) < {line.split(" ")[0] for line in listed.splitlines()}
    assert "not available" not in listed
    copied = {"input": "image", "output": "result", "skip": None}
    assert yaml.safe_load(ndbatch("init", "copy").out)["steps"] == [{"copy": copied}]
    written = ndbatch("init", "copy", "--output", "new.yaml")
    assert written.out == "new.yaml is written; adapt the inputs and see what it would do:  ndbatch plan new.yaml\n"
    assert (
        ndbatch(
            "run", "new.yaml", "--quiet", "--set", "inputs.image.url=image.zarr", "--set", "cluster.kind=inline"
        ).code
        == 0
    )
    again = ndbatch("init", "copy", "--output", "new.yaml")
    assert (again.code, again.err) == (2, "error: new.yaml is there already; choose another name or remove it\n")


def test_config_prints_all_defaults_and_schema_is_json(job: Path, ndbatch: Command) -> None:
    shown = yaml.safe_load(ndbatch("config", "job.yaml", "--set", "retry.kills=7").out)
    assert shown["retry"] == {"attempts": 1, "kills": 7, "budget": 0.05, "wait": 0.5}
    assert shown["blocks"] == {"z": 8, "y": 16, "x": 16}
    assert json.loads(ndbatch("schema").out)["title"] == "ndbatch configuration"


def test_info(job: Path, ndbatch: Command) -> None:
    lines = ndbatch("info", "image.zarr").out.splitlines()
    assert lines[:3] == [
        str(job / "image.zarr"), "  shape       z: 16, y: 32, x: 32", "  type        uint8, image, 16.4 kB not compressed",
    ]  # fmt: skip
    document = json.loads(ndbatch("info", "image.zarr", "--json").out)
    assert (document["shape"], document["chunks"], document["voxel_size"]) == ([16, 32, 32], [8, 16, 16], None)


def test_show_draws_slices_projections_and_outlines(job: Path, ndbatch: Command) -> None:
    labels = api.create("labels.zarr", shape=(16, 32, 32), dtype="uint32", chunks=(8, 16, 16), kind="labels", base=job)
    ids = np.zeros((16, 32, 32), np.uint32)
    ids[4:12, 8:24, 8:24] = 7
    labels.write(labels.domain, ids)
    plain = ndbatch("show", "image.zarr", "--z", "8")
    assert (plain.code, plain.out) == (0, "image.png: z = 8\n")
    outlined = ndbatch("show", "image.zarr", "--z", "8", "--labels", "labels.zarr", "-o", "outlined.png")
    assert outlined.code == 0
    assert ndbatch("show", "image.zarr", "--project", "max", "--along", "y", "-o", "max.png").code == 0
    pictures = [(job / name).read_bytes() for name in ("image.png", "outlined.png", "max.png")]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert len(set(pictures)) == 3


def test_completion_knows_the_verbs(start: Start) -> None:
    process = start(_NDBATCH_COMPLETE="complete_bash", COMP_WORDS="ndbatch st", COMP_CWORD="1")
    out, err = process.communicate(timeout=180)
    assert out.split() == ["status"], err

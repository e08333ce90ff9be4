"""What a wrong configuration says: the exact sentences, with file, line and key."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndbatch.config.load import from_mapping, load
from ndbatch.errors import ConfigError

GOOD = """\
name: twin
inputs:
  image: image.zarr
steps:
  - copy: {input: image, output: twin}
outputs:
  twin: twin.zarr
"""

KEYS = "blocks, cluster, directory, inputs, name, outputs, region, retry, steps, time_limit"

ADDED = [
    ("cluster: {kind: proceses}",
     "8: cluster.kind: must be inline, threads, processes, local, dask, slurm, lsf, pbs, sge or htcondor, not 'proceses'; "
     "did you mean processes?"),
    ("cluster: {memry: 4 GB}", "8: cluster.memry: unknown key; did you mean memory?"),
    ("cluster: {memory: 4}", "8: cluster.memory: 4 has no unit; write one, such as 4 GB"),
    ("cluster: {memory: much}",
     "8: cluster.memory: 'much' is not an amount of memory; write a number and a unit, such as 4 GB"),
    ("cluster: {workers: 0}", "8: cluster.workers: must be at least 1, not 0"),
    ("cluster: {workers: many}", "8: cluster.workers: must be a whole number or auto, not 'many'"),
    ("cluster: {address: 'tcp://a:1'}",
     "8: cluster: address: tcp://a:1 is that of a dask scheduler; it needs kind: dask, not processes"),
    ("cluster: processes", "8: cluster: must be a mapping (key: value), not 'processes'"),
    ("cluster:", "8: cluster: must be a mapping (key: value), not nothing"),
    ("workers: 3", "8: workers: unknown key; did you mean cluster: {workers: ...}?"),
    ("region:\n  z: [0]", "9: region.z: the list is too short; it needs 2 entries at least"),
    ("region:\n  y: [0, 4]\n  z: [0, 1, 2]", "10: region.z: has 3 entries; 2 at most are allowed"),
    ("region: {z: [5, 2]}", "8: region.z: [5, 2] is empty; write [start, stop) with start below stop"),
    ("region: {q: [0, 2]}", "8: region.q: 'q' is not an axis; write t, c, z, y or x"),
    ("region: {z: [0, [1]]}", "8: region.z.1: must be a number or text such as 12 um, not a list"),
    ("blocks: {z: 0}", "8: blocks.z: must be at least 1, not 0"),
    ("blocks: {z: 1.5}", "8: blocks.z: must be a whole number, not 1.5"),
    ("blocks: big", "8: blocks: must be a mapping (key: value) or auto, not 'big'"),
    ("retry: {budget: 2}", "8: retry.budget: must be at most 1, not 2"),
    ("retry: {attempts: '3'}", "8: retry.attempts: must be a whole number, not '3'"),
    ("time_limit: 5 parsecs",
     "8: time_limit: '5 parsecs' is not a length of time; write seconds or a number and a unit, such as 5 min"),
    ("time_limit: -1",
     "8: time_limit: -1 is not a length of time; write seconds or a number and a unit, such as 5 min"),
    ("outpts: {}", "8: outpts: unknown key; did you mean outputs?"),
    ("speed: high", f"8: speed: unknown key; known keys: {KEYS}"),
    ("base: /tmp", f"8: base: unknown key; known keys: {KEYS}"),
    ("name: again", "8: the key 'name' stands here a second time; the first is in line 1"),
    ("3: x", "8: 3: a key must be text; put it in quotes"),
    ("directory: [a]", "8: directory: must be text, not a list"),
    ("\tblocks: auto", "8: the line is indented by a tab; YAML takes spaces only"),
    ("blocks: &a [*a]", "8: the file is nested too deeply or repeats itself by aliases without end"),
    ("blocks: !!python/object/apply:os.system [ls]",
     "8: blocks: must be a mapping (key: value) or auto, not a list"),
]  # fmt: skip

REPLACED = [
    ("copy:", "copi:",
     "5: steps.0.copi: unknown step 'copi'; did you mean copy? (a function of your own is written package.module:function)"),
    ("input: image,", "inptu: image,", "5: steps.0.copy.inptu: unknown key; did you mean input?"),
    ("input: image,", "", "5: steps.0.copy.input: is missing (The array to copy)"),
    ("input: image,", "input: 3,", "5: steps.0.copy.input: must be text, not 3"),
    ("input: image,", "input: imge,",
     "5: steps.0.copy.input: 'imge' is neither an input nor made by a step before; known: image"),
    ("output: twin}", "output: image}", "5: steps.0.copy.output: the name 'image' is taken already"),
    ("- copy: {input: image, output: twin}", "- copy",
     "5: steps.0: a step is one name with its parameters, such as  - filter: {input: image, output: smooth}, not 'copy'"),
    ("copy: {input: image, output: twin}", "copy: image",
     "5: steps.0.copy: the parameters of copy must be a mapping (key: value), such as {input: image}"),
    ("- copy: {input: image, output: twin}", "- {copy: {}, filter: {}}",
     "5: steps.0.copy: a step is one name with its parameters, such as  - filter: {input: image, output: smooth}, "
     "not copy, filter"),
    ("  - copy: {input: image, output: twin}\n", "  copy: {input: image, output: twin}\n",
     "4: steps: must be a list, not a mapping"),
    ("image: image.zarr", "im age: image.zarr",
     "3: inputs.im age: a name is made of letters, digits, _ and -, and begins with a letter"),
    ("image: image.zarr", "image: {level: -1}",
     "3: inputs.image.url: is missing (Path or URL)\nc.yaml:3: inputs.image.level: must be at least 0, not -1"),
    ("image: image.zarr", "image: ''",
     "3: inputs.image: is empty; write a path such as image.tif or a URL such as zarr:///data/image.zarr"),
    ("image: image.zarr", "image: {url: a.tif, axes: zzx}",
     "3: inputs.image.axes: 'zzx' is not an order of axes; write each of t, c, z, y, x at most once, such as zyx"),
    ("image: image.zarr", "image: {url: a.tif, kind: labls}",
     "3: inputs.image.kind: must be image, labels or probability, not 'labls'; did you mean labels?"),
    ("image: image.zarr", "image: {url: a.tif, token: {env: T}}",
     "3: inputs.image: token: a.tif is not a service and takes no token"),
    ("image: image.zarr", "image: {url: 'boss://h/c', token: abc}",
     "3: inputs.image.token: a secret is never written into the file; write {env: NAME} or {file: path}"),
    ("image: image.zarr", "image: {url: 'boss://h/c', token: {}}",
     "3: inputs.image.token: write either {env: NAME} or {file: path}"),
    ("image: image.zarr", "image: 'dvid://me:hush@h/x'",
     "3: inputs.image: has a user name or password in it; leave it out and write token: {env: NAME}"),
    ("twin: twin.zarr", "copy: twin.zarr", "7: outputs.copy: no step makes 'copy'; the steps make: twin"),
    ("twin: twin.zarr", "twin: {url: twin.zarr, dtype: unit8}",
     "7: outputs.twin.dtype: 'unit8' is not a type of voxels; did you mean uint8?"),
    ("twin: twin.zarr", "twin: {url: twin.parquet, chunks: {z: 3}}",
     "7: outputs.twin: chunks: twin.parquet is a table, which has no chunks"),
    ("twin: twin.zarr", "twin: {url: twin.zarr, create: maybe}",
     "7: outputs.twin.create: must be true or false, not 'maybe'"),
    ("twin: twin.zarr", "twin: {url: twin.zarr, pyramid: two}",
     "7: outputs.twin.pyramid: must be auto, a number of levels, or a mapping (key: value), not 'two'"),
    ("image: image.zarr", "image: {url: a.tif, pad: {z: 1}, fill: x}", "3: inputs.image.fill: must be a number, not 'x'"),
    ("  twin: twin.zarr\n", "  {}\n", "6: outputs: is empty"),
    ("name: twin\n", "name: 3\n", "1: name: must be text, not 3"),
    ("name: twin\n", "name: a b\n", "1: name: 'a b' is not a name: letters, digits, _ and -, beginning with a letter"),
]  # fmt: skip


def complaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load("c.yaml")
    return str(caught.value)


@pytest.mark.parametrize(("addition", "sentence"), ADDED, ids=[a for a, _ in ADDED])
def test_a_wrong_line(addition: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert complaint(tmp_path, monkeypatch, GOOD + addition + "\n") == f"c.yaml:{sentence}"


@pytest.mark.parametrize(("old", "new", "sentence"), REPLACED, ids=[n for _, n, _ in REPLACED])
def test_a_wrong_part(old: str, new: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert old in GOOD
    assert complaint(tmp_path, monkeypatch, GOOD.replace(old, new)) == f"c.yaml:{sentence}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "c.yaml is empty; ndbatch init STEP prints a configuration to start from"),
        ("# only words\n", "c.yaml is empty; ndbatch init STEP prints a configuration to start from"),
        ("- a\n", "c.yaml:1: a configuration is a mapping with the keys inputs, steps and outputs, not a list"),
        ("hello\n", "c.yaml:1: a configuration is a mapping with the keys inputs, steps and outputs, not a single value"),
        ("a: [1, 2\n", "c.yaml:2: not YAML: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence "
                       "that began in line 1)"),
        ("a: b: c\n", "c.yaml:1: not YAML: mapping values are not allowed here; is a space or a quote missing, or the "
                      "indentation wrong?"),
        ("[" * 5000, "c.yaml: the file is nested too deeply"),
        ("a: \x01\n", "c.yaml is not YAML: unacceptable character #x0001: special characters are not allowed"),
        ("? [a]\n: b\n", "c.yaml:1: a key must be a name"),
    ],
)  # fmt: skip
def test_no_configuration_at_all(text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert complaint(tmp_path, monkeypatch, text) == sentence


def test_every_mistake_is_told_in_the_order_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD.replace("input: image", "source: image") + "retry: {wait: soon}\nblocks: no\n"
    assert complaint(tmp_path, monkeypatch, text).splitlines() == [
        "c.yaml:5: steps.0.copy.input: is missing (The array to copy)",
        "c.yaml:5: steps.0.copy.source: unknown key; known keys: input, output, skip",
        "c.yaml:8: retry.wait: must be a number, not 'soon'",
        "c.yaml:9: blocks: must be a mapping (key: value) or auto, not false",
    ]


def test_aliases_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    said = complaint(tmp_path, monkeypatch, "\n".join(lines))
    assert said.endswith("the file is nested too deeply or repeats itself by aliases without end")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("binary.yaml").write_bytes(b"\x89PNG\xff\xfe\x00")
    Path("folder").mkdir()
    Path("run").mkdir()
    Path("run/config.yaml").write_text("# from /data/c.yaml\nname: x\n")
    with Path("huge.yaml").open("w") as file:
        file.truncate(5_000_000)
    for name, sentence in {
        "absent.yaml": "absent.yaml: no such file; ndbatch init STEP --output absent.yaml writes one",
        "binary.yaml": "binary.yaml is not a text file; a configuration is YAML in UTF-8",
        "folder": "folder is a folder; give a configuration file",
        "run": "run is a run directory; give the configuration: /data/c.yaml",
        "huge.yaml": "huge.yaml is larger than 4 MB and no configuration file",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load(name)
        assert str(caught.value) == sentence


def test_a_mapping_from_python_is_checked_alike(tmp_path: Path) -> None:
    from ndbatch.steps.copy import Copy

    values = {"inputs": {"image": "a.zarr"}, "steps": [Copy(input="image", output="b")], "outputs": {"b": "b.zarr"}}
    assert from_mapping(values, tmp_path).run_directory == tmp_path / "runs/run"
    with pytest.raises(ConfigError) as caught:
        from_mapping({**values, "steps": [{"copy": {"input": "image"}}], "blocks": {"z": "a"}})
    assert str(caught.value).splitlines() == [
        "steps.0.copy.output: is missing (The name of the copy)",
        "blocks.z: must be a whole number, not 'a'",
    ]


def test_two_outputs_to_one_target() -> None:
    steps = [{"copy": {"input": "image", "output": "a"}}, {"copy": {"input": "image", "output": "b"}}]
    with pytest.raises(ConfigError) as caught:
        from_mapping(
            {"inputs": {"image": "i.zarr"}, "steps": steps, "outputs": {"a": "x.zarr", "b": {"url": "x.zarr/"}}}
        )
    assert str(caught.value) == "outputs.b: x.zarr/ is the target of a too; give each its own"


ODD = st.sampled_from(
    [None, True, 0, -1, 1.5, float("nan"), "", "auto", "x", "12 um", [], ["a"], [1, 2], {}, {"a": 1}, {1: 2}]
)
FULL: dict[str, Any] = {
    "name": "twin",
    "inputs": {
        "image": {"url": "i.zarr", "level": 0, "voxel_size": {"z": "1 um"}, "offset": {"z": 1}, "token": {"env": "A"}}
    },
    "region": {"z": [0, "4 um"]},
    "steps": [{"copy": {"input": "image", "output": "twin"}}],
    "outputs": {"twin": {"url": "o.zarr", "kind": "image", "dtype": "uint8", "chunks": {"z": 4}, "create": True}},
    "blocks": {"z": 4},
    "cluster": {"kind": "dask", "workers": 2, "memory": "2 GB", "address": "tcp://h:1"},
    "retry": {"attempts": 1, "budget": 0.5, "wait": 1},
    "time_limit": "5 min",
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to everything in a nested value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, inner in items for deeper in places(inner, (*path, key)))]


@given(st.sampled_from(places(FULL)[1:]), ODD, st.sampled_from([None, "extra", "kind", 3]))
def test_no_mistake_is_answered_by_anything_but_a_sentence(path: tuple[Any, ...], odd: Any, key: Any) -> None:
    changed = copy.deepcopy(FULL)
    changed["inputs"]["image"]["url"] = "boss://host/a/b/c"
    here: Any = changed
    for step in path[:-1]:
        here = here[step]
    if key is not None and isinstance(here, dict):
        here[key] = odd
    else:
        here[path[-1]] = odd
    try:
        from_mapping(changed)
    except ConfigError as error:
        for line in str(error).splitlines():
            assert re.match(r"^[\w.\- ]+: \S", line), line
            assert "[type=" not in line
            assert "pydantic" not in line

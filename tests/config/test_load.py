"""Reading configurations, changing them from the command line, and writing them back."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ndbatch.config.dialect import Dumper, Loader
from ndbatch.config.load import dump, from_mapping, load
from ndbatch.config.model import Config
from ndbatch.config.overrides import apply, parse_override
from ndbatch.errors import ConfigError, Denied
from ndbatch.steps.copy import Copy

TEXT = """\
name: twin
inputs:
  image: image.zarr
  truth: {url: truth.h5::/seg, voxel_size: {z: 0.3 um, y: 100 nm, x: 1e-1}, kind: labels, offset: {z: 3}}
region: {z: [0, 4], y: [1 um, 3 um]}
steps:
  - copy: {input: image, output: twin}
  - copy: {input: twin, output: again}
outputs:
  again: {url: again.zarr, dtype: uint16, chunks: {z: 8, y: 8, x: 8}}
cluster: {kind: threads, memory: 1.5 GiB}
time_limit: 1 h 30 min
"""


def written(folder: Path, text: str = TEXT) -> Path:
    path = folder / "c.yaml"
    path.write_text(text)
    return path


def test_values_and_defaults(tmp_path: Path) -> None:
    config = load(written(tmp_path))
    assert config.inputs["image"].url == "image.zarr"
    assert config.inputs["truth"].voxel_size == {"z": "0.3 um", "y": "100 nm", "x": 0.1}
    assert config.region == {"z": (0, 4), "y": ("1 um", "3 um")}
    assert config.steps == (Copy(input="image", output="twin"), Copy(input="twin", output="again"))
    assert config.cluster.memory_bytes == int(1.5 * 2**30)
    assert config.time_limit_seconds == 5400
    assert config.retry.attempts == 4
    assert (config.base, config.origin) == (tmp_path, tmp_path / "c.yaml")
    assert config.run_directory == tmp_path / "runs/twin"


def test_what_is_dumped_loads_to_the_same(tmp_path: Path) -> None:
    config = load(written(tmp_path))
    again = tmp_path / "again.yaml"
    again.write_text(dump(config))
    assert load(again).model_copy(update={"origin": config.origin}) == config
    assert list(yaml.safe_load(dump(config))) == [
        "name", "inputs", "region", "steps", "outputs", "blocks", "cluster", "retry", "time_limit", "directory",
    ]  # fmt: skip


def test_a_config_travels_to_other_processes(tmp_path: Path) -> None:
    config = load(written(tmp_path))
    assert pickle.loads(pickle.dumps(config)) == config


def test_overrides_are_applied_and_recorded(tmp_path: Path) -> None:
    given_ = (
        "cluster.workers=2", "inputs.image.level=1", "steps.1.copy.output=other", "outputs={other: other.zarr}",
        "blocks={z: 4}", "time_limit=", "region.z.1=3", "retry.wait=1e-2", "name=twice",
    )  # fmt: skip
    config = load(written(tmp_path), given_)
    assert config.cluster.workers == 2
    assert (config.inputs["image"].url, config.inputs["image"].level) == ("image.zarr", 1)
    assert config.steps[1] == Copy(input="twin", output="other")
    assert config.blocks == {"z": 4}
    assert config.time_limit is None
    assert config.region == {"z": (0, 3), "y": ("1 um", "3 um")}
    assert config.retry.wait == 0.01
    assert config.overrides == given_
    assert "# --set 'blocks={z: 4}'" in dump(config).splitlines()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cluster.workers", "write KEY=VALUE, such as --set cluster.workers=2"),
        ("a..b=1", "write KEY=VALUE, such as --set cluster.workers=2"),
        ("=1", "write KEY=VALUE, such as --set cluster.workers=2"),
        ("steps.2.copy.input=x", "steps is a list of 2; '2' must be 0 to 1"),
        ("steps.0.input=x", "steps.0 is a copy step; write steps.0.copy.PARAMETER=VALUE"),
        ("steps.0.copi.input=x", "steps.0 is a copy step; write steps.0.copy.PARAMETER=VALUE"),
        ("cluster.kind.x=1", "cluster.kind is 'threads', which has no x"),
        ("blocks=[1", "the value is not YAML: expected ',' or ']', but got '<stream end>'; put it in quotes"),
        ("cluster.workers=0", "cluster.workers: must be at least 1, not 0"),
        ("cluster.wokers=3", "cluster.wokers: unknown key; did you mean workers?"),
        ("steps.0.copy={}", "steps.0.copy.input: is missing (The array to copy)"),
    ],
)
def test_a_wrong_override_says_so(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path), [text])
    assert str(caught.value).splitlines()[0] == f"--set {text}: {sentence}"


def test_a_key_with_dots_is_found_whole() -> None:
    data = {"steps": [{"my.own:fn": {"halo": 1}}]}
    changed, set_by = apply(data, [parse_override("steps.0.my.own:fn.halo=4 um")])
    assert changed == {"steps": [{"my.own:fn": {"halo": "4 um"}}]}
    assert data == {"steps": [{"my.own:fn": {"halo": 1}}]}, "the original stays as it is"
    assert list(set_by) == [("steps", 0, "my.own:fn", "halo")]


keys = st.text("abcdefgh_", min_size=1, max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(keys, min_size=1, max_size=4), values)
def test_any_yaml_value_can_be_set_anywhere(path: list[str], value: object) -> None:
    text = ".".join(path) + "=" + yaml.dump(value, Dumper=Dumper, default_flow_style=True, allow_unicode=True)
    changed, _ = apply({}, [parse_override(text)])
    found: object = changed
    for key in path:
        assert isinstance(found, dict)
        found = found[key]
    assert found == value
    assert type(found) is type(value)


@given(values)
def test_the_dialect_reads_back_what_it_writes(value: object) -> None:
    assert yaml.load(yaml.dump(value, Dumper=Dumper), Loader=Loader) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1:30", "1:30"), ("010", 10), ("2024-05-01", "2024-05-01"), ("0x10", 16), ("12 um", "12 um"),
     ("1_000", "1_000"), (".5", 0.5), ("-3", -3), ("true", True), ("1.", 1.0), ("", None), ("~", None)],
)  # fmt: skip
def test_numbers_are_those_of_yaml_1_2(text: str, value: object) -> None:
    read = parse_override(f"a={text}").value
    assert (type(read), read) == (type(value), value)


def test_merged_keys_may_be_overruled(tmp_path: Path) -> None:
    text = TEXT.replace(
        "cluster: {kind: threads, memory: 1.5 GiB}",
        "retry: &r {attempts: 2}\ncluster:\n  <<: {kind: threads, workers: 2}\n  workers: 3",
    )
    config = load(written(tmp_path, text))
    assert (config.cluster.kind, config.cluster.workers, config.retry.attempts) == ("threads", 3, 2)


def test_secrets_stay_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "hush-hush")
    text = TEXT.replace("image: image.zarr", "image: {url: 'boss://h/c/e/i', token: {env: A_TOKEN}}")
    config = load(written(tmp_path, text))
    token = config.inputs["image"].token
    assert token is not None
    assert token.resolve() == "hush-hush"
    assert "hush-hush" not in dump(config) + repr(config) + str(pickle.dumps(config))
    assert yaml.safe_load(dump(config))["inputs"]["image"]["token"] == {"env": "A_TOKEN", "file": None}
    monkeypatch.delenv("A_TOKEN")
    with pytest.raises(Denied, match="the secret in the environment variable A_TOKEN is missing or empty"):
        token.resolve()


def test_paths_of_the_run_directory(tmp_path: Path) -> None:
    values = {"inputs": {"a": "a.zarr"}, "steps": [{"copy": {"input": "a", "output": "b"}}], "outputs": {"b": "b.zarr"}}
    assert from_mapping({**values, "directory": "here"}, tmp_path).run_directory == tmp_path / "here"
    assert from_mapping({**values, "directory": "/there"}, tmp_path).run_directory == Path("/there")
    assert from_mapping({**values, "name": "n"}).run_directory == Path.cwd() / "runs/n"


def test_a_function_beside_the_configuration_is_found(tmp_path: Path) -> None:
    (tmp_path / "beside_the_config.py").write_text("def negative(image):\n    return ~image\n")
    for kind in ("beside_the_config:negative", "beside_the_config.py:negative"):
        text = TEXT.replace("copy: {input: image, output: twin}", f"{kind}: {{input: image, output: twin, halo: 1 um}}")
        config = load(written(tmp_path, text))
        assert config.steps[0].identity()["source"]
        assert load(written(tmp_path, dump(config))).steps == config.steps


def test_a_table_is_known_by_its_ending(tmp_path: Path) -> None:
    config = load(written(tmp_path), ["outputs.again=again.CSV"])
    assert config.outputs["again"].is_table
    assert not load(written(tmp_path)).outputs["again"].is_table


def test_the_configuration_has_the_keys_of_the_contract() -> None:
    assert {"name", "inputs", "region", "steps", "outputs", "blocks", "cluster", "retry"} <= set(Config.model_fields)

"""Inputs of a run: views, tokens, and resampling only where it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndbatch as nb
from ndbatch.config.load import from_mapping
from ndbatch.errors import ConfigError, PlanError
from ndbatch.plan.make import make_plan
from ndbatch.plan.sources import open_sources
from ndbatch.remotes import registry
from ndbatch.remotes.address import Address
from ndbatch.remotes.base import Array
from ndbatch.remotes.memory import MemoryVolume

FINE = np.random.default_rng(0).integers(0, 200, (8, 12, 16), np.uint8)
COARSE = (FINE[1::2, 1::2, 1::2] > 90).astype(np.uint32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _write(tmp_path / "fine.zarr", FINE, 0.5)
    _write(tmp_path / "coarse.zarr", COARSE, 1.0, kind="labels")
    return tmp_path


def _write(path: Path, data: Array, size: float, **facts: Any) -> None:
    volume = nb.create(str(path), shape=data.shape, dtype=data.dtype, voxel_size=(size,) * data.ndim, **facts)
    volume.write(volume.domain, data)


def _config(folder: Path, inputs: dict[str, Any], **more: Any) -> Any:
    names = list(inputs)
    steps = [{"arithmetic": {"expression": " + ".join(names), "inputs": {n: n for n in names}, "output": "made"}}]
    document = {"inputs": inputs, "steps": steps, "outputs": {"made": str(folder / "made.zarr")}}
    return from_mapping({**document, "cluster": {"kind": "inline"}, **more}, folder)


def test_another_voxel_size_is_refused_with_the_way_out(folder: Path) -> None:
    config = _config(folder, {"image": "fine.zarr", "marks": "coarse.zarr"})
    with pytest.raises(PlanError, match=r"do not lie on the same voxels.*write resample: nearest .* in inputs.marks"):
        make_plan(config)


@pytest.mark.parametrize("how", [{}, {"like": "image"}, {"grid": {"z": [0, 8, 0.5], "y": 0.5, "x": "500 nm"}}])
def test_resampled_where_asked(folder: Path, how: dict[str, Any]) -> None:
    inputs = {"image": "fine.zarr", "marks": {"url": "coarse.zarr", "resample": "nearest", **how}}
    result = nb.run(_config(folder, inputs))
    assert result.exit_code == 0
    expected = FINE.astype(np.int64) + COARSE.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert np.array_equal(nb.open(str(folder / "made.zarr"))[...], expected)


def test_a_run_is_known_by_its_views(folder: Path) -> None:
    prints = {
        make_plan(_config(folder, {"image": {"url": "fine.zarr", **view}}), resume=False).fingerprint
        for view in ({}, {"flip": ["z"]}, {"flip": ["y"]}, {"pad": {"z": 1}}, {"pad": {"z": 1}, "fill": 2})
    }
    assert len(prints) == 5


def test_other_axes_are_told_how_to_take_a_place(folder: Path) -> None:
    _write(folder / "five.zarr", FINE[None, None], 1.0, axes="tczyx")
    with pytest.raises(
        PlanError, match=r"axes zyx and tczyx; take one place along an axis with t: or c: in inputs.more"
    ):
        make_plan(_config(folder, {"image": "fine.zarr", "more": "five.zarr"}))
    inputs = {
        "image": "fine.zarr",
        "more": {"url": "five.zarr", "t": 0, "c": 0, "voxel_size": {"z": 0.5, "y": 0.5, "x": 0.5}},
    }
    assert make_plan(_config(folder, inputs)).region.ndim == 3


def test_nothing_is_written_through_a_view(folder: Path) -> None:
    for create in (True, False):
        output = {"made": {"url": str(folder / "coarse.zarr?flip=z"), "create": create}}
        with pytest.raises(PlanError, match=r"outputs\.made: flip makes a view, which is only read"):
            make_plan(_config(folder, {"image": "fine.zarr"}, outputs=output))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"resample": "nearest", "like": "nobody"}, "no input is named 'nobody'"),
        ({"resample": "nearest", "like": "b"}, "it needs like: another input"),
        ({"like": "a"}, "like: a goes with resample"),
        ({"resample": "nearest", "like": "a", "grid": {"z": 1}}, "like and grid both"),
        ({"resample": "cubic"}, "nearest or linear"),
        ({"flip": ["q"]}, "'q' is not an axis"),
        ({"crop": {"z": [0]}}, "crop"),
    ],
)
def test_mistakes_are_found_in_the_file(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _config(tmp_path, {"a": "a.zarr", "b": {"url": "b.zarr", **entry}})


def test_the_first_input_is_like_no_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it needs like: another input, or grid"):
        _config(tmp_path, {"a": {"url": "a.zarr", "resample": "linear"}})
    with pytest.raises(ConfigError, match="a is itself resampled like another input"):
        _config(
            tmp_path,
            {
                "a": {"url": "a.zarr", "resample": "linear", "like": "c"},
                "b": {"url": "b.zarr", "resample": "linear"},
                "c": "c.zarr",
            },
        )


class Service(MemoryVolume):
    """A store that is asked with a token."""

    scheme = "service"
    asked: list[str] = []  # noqa: RUF012

    @classmethod
    def open(cls, address: Address) -> Service:
        assert address.token is not None
        cls.asked.append(address.token.resolve())
        assert "hush" not in address.url + repr(address)
        return super().open(address)


def test_a_token_reaches_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.schemes(), "service", f"{__name__}:Service")
    monkeypatch.setenv("SERVICE_TOKEN", "hush")
    MemoryVolume.of("held", FINE)
    config = _config(tmp_path, {"image": {"url": "service://held", "token": {"env": "SERVICE_TOKEN"}, "flip": ["z"]}})
    volume = open_sources(config)["image"]
    assert Service.asked == ["hush"]
    assert np.array_equal(volume[...], FINE[::-1])

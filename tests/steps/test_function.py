"""Users' functions: what they are given, what they may return, and what is said when they do not."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError
from scipy import ndimage

from ndbatch.casting import cast
from ndbatch.errors import ConfigError, PlanError, StepError
from ndbatch.geometry import Box
from ndbatch.remotes.base import Array
from ndbatch.steps.base import ArrayInfo, Step
from ndbatch.steps.function.loading import load_changed, load_function, search_in, source_hash, text_of
from ndbatch.steps.function.step import Function
from ndbatch.testing.steps import StepSuite, run_operation

RNG = np.random.default_rng(6)
IMAGE = RNG.integers(0, 200, (12, 20, 17), np.uint8)
SOURCE = """
import numpy as np
from scipy import ndimage

def smooth(volume, size=3):
    return ndimage.maximum_filter(volume, size)

def masked(image, mask, below=0):
    return np.where(mask > 0, image, below).astype(image.dtype)

def core_only(image, block):
    shift = [a - b for a, b in zip(block.core.start, block.box.start)]
    return image[tuple(slice(s, s + n) for s, n in zip(shift, block.core.shape))] + 1

def rows(image, block):
    return {"block": [block.index], "z": [block.core.start[0]], "size": [block.voxel_size[0]]}

def both(image):
    return image, [{"sum": int(image.sum())}]

def answer(image):
    return WHAT(image)

def deep(image):
    return _deeper(image)

def _deeper(image):
    raise KeyError("no such cell")

BUFFER = np.zeros((4, 20, 17), np.uint8)

def reuses(image):
    BUFFER[...] = image
    return BUFFER
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a user's module beside a configuration; forgotten afterwards."""
    (tmp_path / "lab_steps.py").write_text(SOURCE)
    search_in(str(tmp_path))
    yield tmp_path
    search_in(str(tmp_path.parent))


def function(name: str, **fields: Any) -> Function:
    inputs = {} if "inputs" in fields else {"input": "a"}
    return Function.of(f"lab_steps:{name}", **{**inputs, "output": "out", **fields})


@pytest.mark.usefixtures("folder")
class TestFunction(StepSuite):
    @pytest.fixture
    def step(self) -> Step:
        return function("smooth", halo=2, parameters={"size": 5})

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": IMAGE}

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"out": ndimage.maximum_filter(IMAGE, 5)}


@pytest.mark.usefixtures("folder")
class TestSeveralInputs(StepSuite):
    @pytest.fixture
    def step(self) -> Step:
        return function("masked", inputs={"image": "a", "mask": "m"}, parameters={"below": 7})

    @pytest.fixture
    def arrays(self) -> dict[str, Array]:
        return {"a": IMAGE, "m": (IMAGE > 100).astype(np.uint8)}

    @pytest.fixture
    def reference(self) -> dict[str, Any]:
        return {"out": np.where(IMAGE > 100, IMAGE, 7).astype(np.uint8)}


@pytest.mark.usefixtures("folder")
class TestWhatItMayReturn:
    def test_the_core_alone(self) -> None:
        made = run_operation(function("core_only", halo={"z": 1, "x": 3}), {"a": IMAGE}, (5, 8, 6))
        np.testing.assert_array_equal(made["out"], IMAGE + 1)

    def test_rows_and_what_it_is_told_of_its_block(self) -> None:
        step = function("rows", output=None, table="t")
        made = run_operation(step, {"a": IMAGE}, (4, 20, 17), offset=(100, 0, 0), voxel_size=(0.5, 1, 1))
        assert made["t"].to_pydict() == {"block": [0, 1, 2], "z": [100, 104, 108], "size": [0.5] * 3}

    def test_array_and_rows(self) -> None:
        made = run_operation(function("both", table="t"), {"a": IMAGE}, (6, 20, 17))
        np.testing.assert_array_equal(made["out"], IMAGE)
        assert made["t"].to_pydict() == {"sum": [int(IMAGE[:6].sum()), int(IMAGE[6:].sum())]}

    def test_a_buffer_that_it_uses_again(self) -> None:
        operation = function("reuses").bind({"input": info(IMAGE)}, {})
        from ndbatch.geometry import Grid
        from ndbatch.steps.base import Patch

        made = []
        for block in Grid.over(Box.of_shape(IMAGE.shape), (4, 20, 17)):
            patch = Patch(IMAGE[block.core.slices()], block.core)
            made.append(operation.apply({"input": patch}, block.core, block, {})["output"])
        np.testing.assert_array_equal(np.concatenate(made), IMAGE)

    def test_another_dtype_where_the_output_asks_for_one(self) -> None:
        made = run_operation(returning(lambda image: image * 2.0), {"a": IMAGE}, (6, 9, 9), dtypes={"out": "uint16"})
        np.testing.assert_array_equal(made["out"], IMAGE * np.uint16(2))
        with pytest.raises(StepError, match=r"lab_steps:answer: the value -1\.0 does not fit uint16"):
            run_operation(returning(lambda i: i * 0 - 1.0), {"a": IMAGE}, (6, 9, 9), dtypes={"out": "uint16"})


def returning(what: Callable[[Array], Any], **fields: Any) -> Function:
    """Return a step whose function returns `what(image)`."""
    module = sys.modules.get("lab_steps") or sys.modules[load_function("lab_steps:answer").__module__]
    vars(module)["WHAT"] = what
    return function("answer", **fields)


def info(image: Array, axes: str = "zyx") -> ArrayInfo:
    return ArrayInfo(Box.of_shape(image.shape), image.dtype, axes)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("what", "fields", "words"),
    [
        (
            lambda a: None,
            {},
            r"returned nothing \(None\) where an array of shape .* is due; does it return one at its end",
        ),
        (lambda a: a.tolist(), {}, "returned a list where an array"),
        (lambda a: a[:-1], {}, r"returned shape \(5, 20, 17\) where \(6, 20, 17\) is due"),
        (lambda a: a[0], {"halo": 1}, r"where \(7, 20, 17\) is due \(or \(6, 20, 17\), without the context\)"),
        (lambda a: a * 1.5, {}, "returned float64 where uint8 is due; set dtype: float64 for this step"),
        (lambda a: np.ma.masked_less(a, 5), {}, "returned a masked array; return .filled"),
        (lambda a: a, {"table": "t"}, r"must return \(array, table\), it returned a ndarray"),
        (lambda a: (a, 5), {"table": "t"}, "returned a int that is no table"),
        (lambda a: {"x": [1], "y": [1, 2]}, {"output": None, "table": "t"}, "that is no table"),
    ],
)
def test_what_it_must_not_return(what: Any, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(StepError, match=words):
        run_operation(returning(what, **fields), {"a": IMAGE}, (6, 20, 17))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("table", [
    {"n": np.arange(3)}, [{"n": 0}, {"n": 1}, {"n": 2}], pd.DataFrame({"n": [0, 1, 2]}, index=[5, 6, 7]),
    pa.table({"n": [0, 1, 2]}), pa.RecordBatch.from_pydict({"n": [0, 1, 2]}),
])  # fmt: skip
def test_every_kind_of_table(table: Any) -> None:
    made = run_operation(returning(lambda a: table, output=None, table="t"), {"a": IMAGE}, IMAGE.shape)
    assert made["t"].to_pydict() == {"n": [0, 1, 2]}


@pytest.mark.usefixtures("folder")
def test_its_own_frames_come_first() -> None:
    with pytest.raises(StepError, match="lab_steps:deep raised KeyError: 'no such cell'") as caught:
        run_operation(function("deep"), {"a": IMAGE}, IMAGE.shape)
    trace = caught.value.fields["traceback"]
    assert "in deep" in trace
    assert "in _deeper" in trace
    assert "ndbatch" not in trace


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lab_steps:smoth", "lab_steps has no function 'smoth'; did you mean smooth"),
        ("lab_step:smooth", "the module lab_step cannot be found .*; did you mean lab_steps"),
        ("lab_steps:BUFFER", "is a ndarray, not a function"),
        ("lab_steps.py", "write package.module:function"),
    ],
)
def test_a_function_that_is_not_there(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Function.of(text, input="a", output="b").bind({"input": info(IMAGE)}, {})


def test_a_module_that_does_not_import(folder: Path) -> None:
    (folder / "lab_needs.py").write_text("import not_installed_anywhere\n")
    with pytest.raises(ConfigError, match="lab_needs needs the module not_installed_anywhere, which is not installed"):
        load_function("lab_needs:f")
    (folder / "lab_broken.py").write_text("def f(:\n")
    with pytest.raises(ConfigError, match="lab_broken does not import: SyntaxError"):
        load_function("lab_broken:f")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("masked", {}, "cannot be called with what the step gives it: missing a required argument: 'mask'"),
        ("masked", {"inputs": {"image": "a", "msk": "b"}}, "missing a required argument: 'mask'"),
        ("smooth", {"parameters": {"sise": 3}}, "unexpected keyword argument 'sise'"),
        ("smooth", {"halo": {"w": 3}}, "halo: axis 'w' is not one of z, y, x"),
        ("smooth", {"halo": -1}, "halo: -1 is below 0"),
        ("smooth", {"dtype": "object"}, "'object' is not a type of voxel"),
        ("smooth", {"dtype": "unit8"}, "'unit8' is not a type of voxel"),
        ("smooth", {"halo": "1 um"}, "the volume has no voxel size"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_block(name: str, fields: dict[str, Any], words: str) -> None:
    step = function(name, **fields)
    with pytest.raises((ConfigError, PlanError), match=words):
        step.bind({role: info(IMAGE) for role in step.sources}, {})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input": "a", "inputs": {"b": "b"}, "output": "c"}, "give either input"),
        ({"inputs": {}, "output": "c"}, "inputs is empty"),
        ({"input": "a"}, "give output"),
        (
            {"input": "a", "output": "b", "parameters": {"kernel": np.ones(3)}},
            "parameters.kernel is a ndarray; use numbers",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Function.of("lab_steps:smooth", **fields)


@pytest.mark.usefixtures("folder")
def test_a_halo_leaves_time_and_channels_alone() -> None:
    image = np.zeros((2, 3, 8, 8), np.uint8)
    assert function("smooth", halo=2).bind({"input": info(image, "tcyx")}, {}).halo == (0, 0, 2, 2)
    assert function("smooth", halo={"t": 1}).bind({"input": info(image, "tcyx")}, {}).halo == (1, 0, 0, 0)


@pytest.mark.usefixtures("folder")
def test_one_named_input_goes_in_first_place_where_no_parameter_has_its_name() -> None:
    step = function("smooth", inputs={"image": "a"}, parameters={"size": 1})
    np.testing.assert_array_equal(run_operation(step, {"a": IMAGE}, (5, 9, 9))["out"], IMAGE)


def test_an_edited_function_is_another_function(folder: Path) -> None:
    """Also where the edit keeps the file's size and falls into the same second."""
    file = folder / "lab_edited.py"
    file.write_text("def f(image):\n    return image + 1\n")
    step = Function.of("lab_edited:f", input="a", output="b")
    before = step.identity()
    old = step.bind({"input": info(IMAGE)}, {})
    assert load_changed("lab_edited:f")(1) == 2
    file.write_text("def f(image):\n    return image + 2\n")
    assert load_changed("lab_edited:f")(1) == 3
    assert step.identity()["source"] != before["source"]
    with pytest.raises(StepError, match="its source file on this worker is not the one that the run was planned with"):
        run_bound(old)


def run_bound(operation: Any) -> None:
    from ndbatch.geometry import Block
    from ndbatch.steps.base import Patch

    domain = Box.of_shape(IMAGE.shape)
    operation.apply({"input": Patch(IMAGE, domain)}, domain, Block(0, domain), {})


def test_function_objects_become_texts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert text_of(cast) == "ndbatch.casting:cast"
    assert load_function(text_of(cast)) is cast
    script = tmp_path / "job.py"
    script.write_text("def f(image):\n    return image\n")
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec(script.read_text(), vars(main))
    with pytest.raises(ConfigError, match="f was typed in at a prompt"):
        text_of(main.f)
    main.__file__ = str(script)
    assert text_of(main.f) == f"{script}:f"
    assert load_function(text_of(main.f))(3) == 3
    with pytest.raises(ConfigError, match="has no name that workers can import"):
        text_of(lambda image: image)
    assert len(source_hash(f"{script}:f")) == 16

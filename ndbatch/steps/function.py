"""Users' functions as steps: `package.module:function` (or `script.py:function`) over blocks, arrays or tables out.

    - my_package.my_module:my_function: {input: image, halo: 8, output: extra}

The function gets one array for each input (C-order, the volume's axes; a copy that it may change), then `parameters` by
name, and `block` (a BlockInfo) if it has such a parameter. With `output` it returns an array of the shape it got or of the
block's core; with `table` rows; with both, the pair of them. It runs exactly once a block in a run without faults.
"""

from __future__ import annotations

import inspect
import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from ndbatch.errors import ConfigError, StepError
from ndbatch.geometry import Block, Box, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Operation, Patch, Step
from ndbatch.steps.cast import cast
from ndbatch.steps.loading import load_changed, load_function, source_hash, text_of
from ndbatch.steps.rows import as_rows
from ndbatch.units import Length, to_halo


@dataclass(frozen=True)
class BlockInfo:
    """What a function is told of its block: absolute voxels, C-order."""

    index: int
    core: Box
    """The part that this block alone writes."""
    box: Box
    """The part that the arrays cover: the core and its context."""
    axes: str
    voxel_size: tuple[float, ...] | None
    """Micrometres along each axis, or None."""


class Function(Step):
    """A user's function over blocks."""

    kind: ClassVar[str] = "function"

    function: str
    """Where the function is: package.module:function, or script.py:function."""
    input: str | None = None
    """The array it gets as its first argument."""
    inputs: dict[str, str] | None = None
    """Several arrays, by the names of the function's parameters; a single one may go by any name."""
    output: str | None = None
    """Name of the array it returns."""
    table: str | None = None
    """Name of the table whose rows it returns."""
    halo: Length | dict[str, Length] = 0
    """Context around the block: voxels on every axis, a length, or one for each named axis."""
    dtype: str | None = None
    """Type of the array it returns; the first input's if not given."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Further arguments, by name."""
    memory: float = Field(3.0, ge=0)
    """Its own peak memory, as a multiple of its inputs."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.input is None) == (self.inputs is None):
            raise ValueError("give either input (one array) or inputs (several, by name)")
        if self.inputs is not None and not self.inputs:
            raise ValueError("inputs is empty; name at least one array")
        if self.output is None and self.table is None:
            raise ValueError("give output (the array it returns), table (the rows it returns), or both")
        for name, value in self.parameters.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                raise ValueError(
                    f"parameters.{name} is a {type(value).__name__}; use numbers, text, lists and mappings, which the record "
                    "of the run can hold"
                ) from None
        return self

    @classmethod
    def of(cls, function: Callable[..., Any] | str, **fields: Any) -> Self:
        """Return the step for a function object or its text. ConfigError for one that workers could not import."""
        text = function if isinstance(function, str) else text_of(function)
        halo = fields.pop("halo", 0)
        return cls.model_validate(
            {"function": text, "halo": dict(halo) if isinstance(halo, Mapping) else halo, **fields}
        )

    @property
    def title(self) -> str:
        """The function's own name."""
        return self.function.rpartition(":")[2].rpartition(".")[2]

    @property
    def sources(self) -> dict[str, str]:
        """Its inputs, by the function's parameter names (one without a name stands under `input`)."""
        return dict(self.inputs) if self.inputs is not None else {"input": str(self.input)}

    @property
    def products(self) -> dict[str, str]:
        """The array under `output`, the table under `table`."""
        return {role: name for role, name in (("output", self.output), ("table", self.table)) if name is not None}

    def identity(self) -> dict[str, Any]:
        """Return the parameters and a hash of the source file that the function is in."""
        return {**super().identity(), "source": source_hash(self.function)}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> FunctionOperation:
        """Import the function and check that it takes what it will be given. ConfigError where it does not."""
        function = load_changed(self.function)
        named = self.inputs is not None and not _takes_by_place(function, list(inputs))
        _require_parameters(function, self.function, list(inputs) if named else 1, self.parameters)
        frame = next(iter(inputs.values()))
        own = _dtype(self.dtype)
        if own is None and "output" not in dtypes:
            own = frame.dtype
        dtype = dtypes.get("output", frame.dtype if own is None else own)
        made = {"output": ArrayInfo(frame.domain, dtype, frame.axes, frame.voxel_size, Kind.IMAGE)}
        bytes_in = sum(info.dtype.itemsize for info in inputs.values())
        return FunctionOperation(
            arrays=made if self.output is not None else {},
            tables=("table",) if self.table is not None else (),
            halo=_halo(self.halo, frame),
            working_bytes=(1 + self.memory) * bytes_in,
            once=True,
            block_independent=False,
            caveat=f"{self.function}: " + (_ROWS if self.table is not None else _VOXELS),
            function=self.function,
            source=source_hash(self.function),
            named=named,
            parameters=dict(self.parameters),
            own=own,
            axes=frame.axes,
            voxel_size=frame.voxel_size,
        )


_VOXELS = "the same for every block shape only if no voxel depends on more than the halo, which ndbatch cannot know"
_ROWS = "its rows are made block by block, so that another block shape may give other rows"


@dataclass(frozen=True)
class FunctionOperation(Operation):
    """A user's function, bound: its text travels, the function is imported once in each process."""

    function: str = field(kw_only=True)
    source: str = field(kw_only=True)
    """Hash of the source file on the driver: a worker that has another one refuses."""
    named: bool = field(kw_only=True)
    parameters: Mapping[str, Any] = field(kw_only=True)
    own: np.dtype[Any] | None = field(kw_only=True)
    """Type of the array it must return; any that the output holds value by value if None."""
    axes: str = field(kw_only=True)
    voxel_size: tuple[float, ...] | None = field(kw_only=True)

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Call the function; StepError, its own frames first, where it raises or returns something else than declared."""
        function = _same_function(self.function, self.source)
        arrays = {role: np.array(patch.data) for role, patch in inputs.items()}
        given = next(iter(inputs.values())).box
        arguments = dict(self.parameters)
        if "block" in _parameters(function):
            arguments["block"] = BlockInfo(block.index, block.core, given, self.axes, self.voxel_size)
        try:
            returned = function(**arrays, **arguments) if self.named else function(*arrays.values(), **arguments)
        except (MemoryError, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit() in a function must not end the worker, or the run, in silence
            raise self._raised(error) from error
        return self._checked(returned, given, box)

    def _raised(self, error: BaseException) -> StepError:
        """Return the user's exception as one sentence, with the traceback from the user's first frame on."""
        frames = traceback.extract_tb(error.__traceback__)[1:]
        place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        lines = traceback.format_list(frames) + traceback.format_exception_only(error)
        text = f"{self.function} raised {type(error).__name__}: {error}{place}"
        return StepError(text, traceback="".join(lines))

    def _checked(self, returned: Any, given: Box, box: Box) -> dict[str, Any]:
        made: dict[str, Any] = {}
        if self.arrays and self.tables:
            if not (isinstance(returned, tuple) and len(returned) == 2):
                raise StepError(f"{self.function} must return (array, table), it returned {_described(returned)}")
            array, rows = returned
        else:
            array = rows = returned
        if self.arrays:
            made["output"] = self._array(array, given, box)
        if self.tables:
            made["table"] = as_rows(rows, self.function)
        return made

    def _array(self, array: Any, given: Box, box: Box) -> Array:
        if not isinstance(array, np.ndarray):
            raise StepError(
                f"{self.function} returned {_described(array)} where an array of shape {given.shape} is due; "
                "does it return one at its end?"
            )
        if isinstance(array, np.ma.MaskedArray):
            raise StepError(
                f"{self.function} returned a masked array; return .filled(value), so that no voxel is left open"
            )
        if array.shape not in (given.shape, box.shape):
            also = f" (or {box.shape}, without the context)" if box != given else ""
            raise StepError(f"{self.function} returned shape {array.shape} where {given.shape} is due{also}")
        if self.own is not None and array.dtype != self.own and not np.can_cast(array.dtype, self.own, "safe"):
            raise StepError(
                f"{self.function} returned {array.dtype} where {self.own} is due; set dtype: {array.dtype.name} for this "
                "step, or cast in the function"
            )
        core = array[box.slices(given.start)] if array.shape == given.shape else array
        result = cast(core, self.arrays["output"].dtype, self.function)
        # A copy: the function may keep what it returned and write into it again while this block is still stored.
        return np.array(result, order="C") if np.may_share_memory(result, array) else result


def _same_function(text: str, source: str) -> Callable[..., Any]:
    """Return the function. StepError where this worker's source file is not the driver's."""
    _require_source(text, source)
    return load_function(text)


@lru_cache(maxsize=256)
def _require_source(text: str, source: str) -> None:
    """Compare source files, once a process: a worker may have lived since before the file was changed."""
    load_changed(text)
    if source_hash(text) != source:
        raise StepError(
            f"{text}: its source file on this worker is not the one that the run was planned with; bring the same file to all "
            "machines, and run again with --fresh if it was changed on purpose"
        )


@lru_cache(maxsize=256)
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the function's parameters; none where it does not tell (some built in C)."""
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


def _takes_by_place(function: Callable[..., Any], names: list[str]) -> bool:
    """Return whether the only input goes in first place, because the function has no parameter of its name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return len(names) == 1
    return len(names) == 1 and not any(p.name == names[0] or p.kind is p.VAR_KEYWORD for p in parameters)


def _require_parameters(
    function: Callable[..., Any], text: str, inputs: list[str] | int, more: Mapping[str, Any]
) -> None:
    """Raise ConfigError where the function cannot be called with what it will be given."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    extra = dict(more)
    if "block" in signature.parameters:
        extra["block"] = None
    positional = [None] * inputs if isinstance(inputs, int) else []
    named = {} if isinstance(inputs, int) else dict.fromkeys(inputs)
    try:
        signature.bind(*positional, **named, **extra)
    except TypeError as error:
        raise ConfigError(f"{text}{signature} cannot be called with what the step gives it: {error}") from None


def _halo(halo: Length | Mapping[str, Length], frame: ArrayInfo) -> Shape:
    """Return the context in voxels; one length goes for z, y and x alone, since time and channels are seldom meant."""
    if isinstance(halo, Mapping):
        unknown = [axis for axis in halo if axis not in frame.axes]
        if unknown:
            raise ConfigError(f"halo: axis {unknown[0]!r} is not one of {', '.join(frame.axes)}")
        lengths: Mapping[str, Length] = halo
    else:
        lengths = {axis: halo for axis in frame.axes if axis not in "tc"}
    result = tuple(
        to_halo(lengths.get(axis, 0), frame.voxel_size, frame.ndim)[place] for place, axis in enumerate(frame.axes)
    )
    if any(h < 0 for h in result):
        raise ConfigError(f"halo: {halo} is below 0")
    return result


def _dtype(text: str | None) -> np.dtype[Any] | None:
    if text is None:
        return None
    try:
        dtype = np.dtype(text)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "buif":
        raise ConfigError(f"dtype: {text!r} is not a type of voxel; use uint8, uint16, uint32, uint64, float32 ...")
    return dtype


def _described(value: Any) -> str:
    return "nothing (None)" if value is None else f"a {type(value).__name__}"

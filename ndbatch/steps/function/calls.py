"""Calling users' functions: what they are given, what they return, and what is said when they do not.

A function is called once a block, or for every patch of a lattice over the volume (docs/design/patches.md); a class or factory is
set up once a process before. Arrays are C-order, of the volume's axes; boxes are absolute voxels.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.casting import cast
from ndbatch.errors import StepError
from ndbatch.geometry import Block, Box, Shape
from ndbatch.remotes.base import Array
from ndbatch.steps.base import Operation, Patch
from ndbatch.steps.function.loading import load_changed, load_function, source_hash
from ndbatch.steps.function.models import set_up
from ndbatch.steps.function.patches import Lattice, sweep
from ndbatch.steps.function.rows import as_rows


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


@dataclass(frozen=True)
class Callee:
    """A user's function as it travels: its text; the function is imported, and its model set up, once in each process."""

    text: str
    source: str
    """Hash of the source file on the driver: a worker that has another one refuses."""
    named: bool
    """Arrays are given by the names of its parameters."""
    parameters: Mapping[str, Any]
    setup: Mapping[str, Any] | None
    """Arguments of the class or factory that makes the function; None where it is a function already."""

    def found(self) -> Callable[..., Any]:
        """Return the function, or what makes it. StepError or ConfigError where its source is not here as on the driver."""
        _require_source(self.text, self.source)
        return load_function(self.text)

    def load(self) -> Callable[..., Any]:
        """Return the function. StepError where its source is not the driver's or setting it up raises."""
        function = self.found()
        if self.setup is None:
            return function
        with self.blamed("while it was set up"):
            made = set_up(function, self.text, self.source, self.setup)
        if not callable(made):
            raise StepError(
                f"{self.text} made {_described(made)}, which cannot be called; return a function, or give the class a __call__"
            )
        called: Callable[..., Any] = made
        return called

    def __call__(self, function: Callable[..., Any], arrays: Mapping[str, Array], **more: Any) -> Any:
        """Return what the function returns; StepError, its own frames first, where it raises."""
        arguments = {**self.parameters, **more}
        with self.blamed():
            return function(**arrays, **arguments) if self.named else function(*arrays.values(), **arguments)

    def blamed(self, when: str = "") -> _Blame:
        """Return the context in which every exception is the user's function's."""
        return _Blame(self.text, when)


@dataclass
class _Blame:
    """Turns a user's exception into one sentence, with the traceback from the user's first frame on."""

    text: str
    when: str

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # sys.exit() in a function must not end the worker, or the run, in silence: every exception but these is the function's.
        if error is None or isinstance(error, MemoryError | KeyboardInterrupt):
            return
        own = Path(__file__).parent
        frames = [f for f in traceback.extract_tb(trace) if Path(f.filename).parent != own]
        place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        lines = traceback.format_list(frames) + traceback.format_exception_only(error)
        said = " ".join(part for part in (self.text, "raised", f"{type(error).__name__}: {error}", self.when) if part)
        raise StepError(f"{said}{place}", traceback="".join(lines)) from error


@lru_cache(maxsize=256)
def _require_source(text: str, source: str) -> None:
    """Compare source files, once a process: a worker may have lived since before the file was changed."""
    load_changed(text)
    if source_hash(text) != source:
        raise StepError(
            f"{text}: its source file on this worker is not the one that the run was planned with; bring the same file to all "
            "machines, and run again with --fresh if it was changed on purpose"
        )


@dataclass(frozen=True)
class FunctionOperation(Operation):
    """A user's function, called once a block."""

    callee: Callee = field(kw_only=True)
    own: np.dtype[Any] | None = field(kw_only=True)
    """Type of the array it must return; any that the output holds value by value if None."""
    axes: str = field(kw_only=True)
    voxel_size: tuple[float, ...] | None = field(kw_only=True)

    def require_here(self) -> None:
        """Import the function; a model is not set up."""
        self.callee.found()

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Call the function on copies of `inputs`; StepError where it raises or returns something else than declared."""
        function = self.callee.load()
        arrays = {role: np.array(patch.data) for role, patch in inputs.items()}
        given = next(iter(inputs.values())).box
        told: dict[str, Any] = {}
        if "block" in (_parameters(function) if self.callee.setup is None else parameters_of(function)):
            told["block"] = BlockInfo(block.index, block.core, given, self.axes, self.voxel_size)
        return self._checked(self.callee(function, arrays, **told), given, box)

    def _checked(self, returned: Any, given: Box, box: Box) -> dict[str, Any]:
        made: dict[str, Any] = {}
        text = self.callee.text
        if self.arrays and self.tables:
            if not (isinstance(returned, tuple) and len(returned) == 2):
                raise StepError(f"{text} must return (array, table), it returned {_described(returned)}")
            array, rows = returned
        else:
            array = rows = returned
        if self.arrays:
            made["output"] = self._array(array, given, box)
        if self.tables:
            made["table"] = as_rows(rows, text)
        return made

    def _array(self, array: Any, given: Box, box: Box) -> Array:
        text = self.callee.text
        require_array(array, self.own, f"an array of shape {given.shape}", text)
        if array.shape not in (given.shape, box.shape):
            also = f" (or {box.shape}, without the context)" if box != given else ""
            raise StepError(f"{text} returned shape {array.shape} where {given.shape} is due{also}")
        core = array[box.slices(given.start)] if array.shape == given.shape else array
        result = cast(core, self.arrays["output"].dtype, text)
        # A copy: the function may keep what it returned and write into it again while this block is still stored.
        return np.array(result, order="C") if np.may_share_memory(result, array) else result


@dataclass(frozen=True)
class PatchedOperation(Operation):
    """A user's function, called for the patches that decide a block, and its outputs joined."""

    callee: Callee = field(kw_only=True)
    own: np.dtype[Any] | None = field(kw_only=True)
    """Type of the arrays it must return; any that the output holds value by value if None."""
    lattice: Lattice = field(kw_only=True)
    kept: tuple[int, ...] = field(kw_only=True)
    """The axes that the function is given; the others have one voxel in a patch."""
    batch: int | None = field(kw_only=True)
    """Patches a call, along a first axis of their own; None gives one patch without that axis."""
    channels: bool = field(kw_only=True)
    """It returns an axis of channels, one for each array, before those of the patch."""

    def require_here(self) -> None:
        """Import the function; a model is not set up."""
        self.callee.found()

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return `box` of every array. StepError where the function raises or returns something else than declared."""
        function = self.callee.load()
        blended = self.lattice.mode != "crop"
        dtypes = [info.dtype for info in self.arrays.values()]
        made = [np.zeros(box.shape, blending_dtype(dtype) if blended else dtype) for dtype in dtypes]

        def predict(arrays: list[Array]) -> list[Array]:
            given = {role: self._given(array) for role, array in zip(inputs, arrays, strict=True)}
            values = self._taken(self.callee(function, given), len(arrays[0]))
            return values if blended else [cast(v, d, self.callee.text) for v, d in zip(values, dtypes, strict=True)]

        sweep(self.lattice, list(inputs.values()), box, made, predict, self.batch or 1)
        return {role: cast(a, d, self.callee.text) for role, a, d in zip(self.arrays, made, dtypes, strict=True)}

    def _given(self, array: Array) -> Array:
        """Return patches (batch, *lattice.shape) as the function takes them."""
        lead = () if self.batch is None else (self.batch,)
        return array.reshape(lead + self._patch())

    def _patch(self) -> Shape:
        return tuple(self.lattice.shape[axis] for axis in self.kept)

    def _taken(self, returned: Any, count: int) -> list[Array]:
        """Return, for each array, what the function made of `count` patches: (count, *lattice.shape)."""
        text = self.callee.text
        lead = () if self.batch is None else (count,)
        due = lead + ((len(self.arrays),) if self.channels else ()) + self._patch()
        require_array(returned, self.own, f"an array of shape {due}", text)
        if returned.shape != due:
            what = "(patches, channels, patch)" if self.channels else "(patches, patch)"
            raise StepError(
                f"{text} returned shape {returned.shape} where {due} is due" + (f", {what}" if lead else "")
            )
        split = returned.reshape(count, len(self.arrays), *self.lattice.shape)
        return [split[:, place] for place in range(len(self.arrays))]


def blending_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the floating point type in which outputs of `dtype` are weighted and added up."""
    return np.dtype(np.float32 if dtype.itemsize <= (4 if dtype.kind == "f" else 2) else np.float64)


def require_array(array: Any, own: np.dtype[Any] | None, due: str, text: str) -> None:
    """Raise StepError where what a function returned is no plain array that holds values of `own`."""
    if not isinstance(array, np.ndarray):
        raise StepError(f"{text} returned {_described(array)} where {due} is due; does it return one at its end?")
    if isinstance(array, np.ma.MaskedArray):
        raise StepError(f"{text} returned a masked array; return .filled(value), so that no voxel is left open")
    if own is not None and array.dtype != own and not np.can_cast(array.dtype, own, "safe"):
        raise StepError(
            f"{text} returned {array.dtype} where {own} is due; set dtype: {array.dtype.name} for this step, or cast in "
            "the function"
        )


def parameters_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the function's parameters; none where it does not tell (some built in C)."""
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


# Models are not kept by this cache: they go when another takes their place.
_parameters = lru_cache(maxsize=256)(parameters_of)


def _described(value: Any) -> str:
    return "nothing (None)" if value is None else f"a {type(value).__name__}"

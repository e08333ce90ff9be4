"""Users' functions as steps: `package.module:function` (or `script.py:function`) over blocks, arrays or tables out.

    - my_package.my_module:my_function: {input: image, halo: 8, output: extra}
    - network.py:Network:
        {input: image, setup: {weights: net.onnx}, patch: {z: 32, y: 128, x: 128}, overlap: {mode: cosine, size: 16},
         batch: 4, output: probability, dtype: float32}

The function gets one array for each input (C-order, the volume's axes; a copy that it may change), then `parameters` by
name, and `block` (a BlockInfo) if it has such a parameter. With `output` it returns an array of the shape it got or of the
block's core; with `table` rows; with both, the pair of them. It runs exactly once a block in a run without faults.

With `patch` it gets patches of one shape in place of blocks, and returns as many voxels; how they are joined is in
docs/design/patches.md.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ndbatch.errors import ConfigError
from ndbatch.geometry import Shape
from ndbatch.remotes.base import Kind
from ndbatch.steps.base import ArrayInfo, Operation, Step
from ndbatch.steps.function.calls import Callee, FunctionOperation, PatchedOperation, blending_dtype
from ndbatch.steps.function.loading import load_changed, source_hash, text_of
from ndbatch.steps.function.models import files_of
from ndbatch.steps.function.patches import Lattice, Mode, voxels_at_once
from ndbatch.units import Length, to_halo


class Overlap(BaseModel):
    """How neighbouring patches are joined."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    mode: Mode = "crop"
    """crop: every voxel is that of the patch it lies deepest in; for labels and classes too. linear, cosine: patches are blended,
    their weights falling towards their borders."""
    size: int | dict[str, int] = 0
    """Voxels that neighbours share along each axis of the patch, or one number for each named axis."""


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
    outputs: list[str] | None = None
    """Names of several arrays: the channels that a function over patches returns, before the axes of the patch."""
    table: str | None = None
    """Name of the table whose rows it returns."""
    halo: Length | dict[str, Length] = 0
    """Context around the block: voxels on every axis, a length, or one for each named axis."""
    dtype: str | None = None
    """Type of the array it returns; the first input's if not given."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Further arguments, by name."""
    setup: dict[str, Any] | None = None
    """Arguments of a class, or of a function that makes the function, by name: it is called with them once a process, such as
    to load a network; what it returns is what blocks or patches are given to. Paths count from the configuration's folder."""
    patch: dict[str, int] | None = None
    """Give it patches of this many voxels along each named axis, mirrored at the volume's edges, in place of blocks. Channels
    come whole; of other axes one voxel is given at a time, and they are left out of its arrays."""
    overlap: Overlap | None = None
    """How neighbouring patches are joined: mode and size."""
    batch: int | None = Field(None, ge=1)
    """Patches in one call, along a first axis; without it patches come one by one, without that axis."""
    memory: float = Field(3.0, ge=0)
    """Its own peak memory, as a multiple of its inputs: of a block, or of a batch of patches."""
    resources: dict[str, Annotated[float, Field(gt=0, strict=False)]] = {}  # noqa: RUF012 - pydantic copies it
    """What a worker must offer beside its core, such as {gpu: 1}; nothing but where it runs depends on it."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.input is None) == (self.inputs is None):
            raise ValueError("give either input (one array) or inputs (several, by name)")
        if self.inputs is not None and not self.inputs:
            raise ValueError("inputs is empty; name at least one array")
        if self.output is None and self.table is None and self.outputs is None:
            raise ValueError("give output (the array it returns), table (the rows it returns), or both")
        for key, given in (("parameters", self.parameters), ("setup", self.setup or {})):
            for name, value in given.items():
                try:
                    json.dumps(value)
                except (TypeError, ValueError):
                    raise ValueError(
                        f"{key}.{name} is a {type(value).__name__}; use numbers, text, lists and mappings, which the record "
                        "of the run can hold"
                    ) from None
        return self

    @model_validator(mode="after")
    def _patches_fit(self) -> Self:
        if self.patch is None:
            for name in ("overlap", "batch", "outputs"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} goes with patch, such as patch: {{z: 32, y: 128, x: 128}}")
            return self
        if self.table is not None:
            raise ValueError(
                "a function over patches returns arrays, not a table; measure what it returns in a step after it"
            )
        if self.halo not in (0, {}):
            raise ValueError("patches bring their own context; give overlap in place of halo")
        if self.outputs is not None and (self.output is not None or not self.outputs):
            raise ValueError("give either output (one array) or outputs (one for each channel)")
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
        """The array under `output`, the table under `table`; several arrays under `output 0`, `output 1` ..."""
        if self.outputs is not None:
            return {f"output {place}": name for place, name in enumerate(self.outputs)}
        return {role: name for role, name in (("output", self.output), ("table", self.table)) if name is not None}

    @property
    def asks(self) -> Mapping[str, float]:
        """What its workers must offer."""
        return self.resources

    def identity(self) -> dict[str, Any]:
        """Return the parameters, and hashes of the source file that the function is in and of the files of its model.

        What a step without patches or a model never had is left out, so that its runs go on after an update.
        """
        own = {**super().identity(), "source": source_hash(self.function)}
        own.pop("resources")
        if self.setup is not None:
            own["files"] = files_of(self.setup)
        return {name: value for name, value in own.items() if name not in _LATER or value is not None}

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Import the function and check that it takes what it will be given. ConfigError where it does not."""
        frame = next(iter(inputs.values()))
        callee = self._callee(list(inputs))
        own = _dtype(self.dtype)
        if own is None and not dtypes:
            own = frame.dtype
        made = {}
        for role in self.products:
            if role != "table":
                dtype = dtypes.get(role, frame.dtype if own is None else own)
                made[role] = replace(frame, dtype=dtype, kind=Kind.IMAGE)
        bytes_in = sum(info.dtype.itemsize for info in inputs.values())
        if self.patch is not None:
            return self._patched(callee, frame, own, made, bytes_in)
        return FunctionOperation(
            arrays=made,
            tables=("table",) if self.table is not None else (),
            halo=_halo(self.halo, frame),
            working_bytes=(1 + self.memory) * bytes_in,
            once=True,
            block_independent=False,
            caveat=f"{self.function}: " + (_ROWS if self.table is not None else _VOXELS),
            callee=callee,
            own=own,
            axes=frame.axes,
            voxel_size=frame.voxel_size,
        )

    def _callee(self, inputs: list[str]) -> Callee:
        """Return the function as it travels, checked against what it will be called with."""
        function = load_changed(self.function)
        setup = {} if self.setup is None and inspect.isclass(function) else self.setup
        if setup is not None:
            _require_parameters(function, self.function, 0, setup)
        called = called_of(function) if setup is not None else function
        named = self.inputs is not None and not _takes_by_place(called, inputs)
        if called is not None:
            _require_parameters(called, self.function, inputs if named else 1, self.parameters, self.patch is None)
        source = source_hash(self.function)
        return Callee(self.function, source, named, dict(self.parameters), None if setup is None else dict(setup))

    def _patched(
        self, callee: Callee, frame: ArrayInfo, own: np.dtype[Any] | None, made: dict[str, ArrayInfo], bytes_in: int
    ) -> PatchedOperation:
        """Return the operation over patches. ConfigError for shapes and overlaps that make no lattice."""
        assert self.patch is not None
        joined = self.overlap or Overlap()
        lattice = _lattice(self.patch, joined, frame)
        if self.outputs is not None and "c" in frame.axes:
            raise ConfigError(
                "outputs: the image has channels already; give them as several inputs, such as "
                "inputs: {dapi: ..., gfp: ...} of volumes opened at one channel each"
            )
        blended = joined.mode != "crop"
        for info in made.values():
            if blended and (info.dtype.kind == "b" or (info.dtype.itemsize == 8 and info.dtype.kind in "ui")):
                raise ConfigError(
                    f"overlap: {joined.mode} blends numbers, which {info.dtype} voxels (labels) are not; use mode: crop, or "
                    "dtype: float32"
                )
        sums = [blending_dtype(info.dtype).itemsize if blended else 0 for info in made.values()]
        bytes_out = sum(info.dtype.itemsize for info in made.values()) + sum(sums)
        return PatchedOperation(
            arrays=made,
            halo=lattice.halo,
            working_bytes=voxels_at_once(lattice, self.batch or 1) * ((3 + self.memory) * bytes_in + 2 * bytes_out)
            + sum(sums),
            once=True,
            callee=callee,
            own=own,
            lattice=lattice,
            kept=tuple(i for i, name in enumerate(frame.axes) if name in self.patch or name == "c"),
            batch=self.batch,
            channels=self.outputs is not None,
        )


_LATER = ("setup", "patch", "overlap", "batch", "outputs")
"""Keys that came after the first release, left out of identities where they are not given."""
_VOXELS = "the same for every block shape only if no voxel depends on more than the halo, which ndbatch cannot know"
_ROWS = "its rows are made block by block, so that another block shape may give other rows"


def called_of(made_by: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return what is called after setting up, where that can be known before: the `__call__` of a class, without its self."""
    own = inspect.getattr_static(made_by, "__call__", None) if inspect.isclass(made_by) else None
    return partial(own, None) if inspect.isfunction(own) else None


def _takes_by_place(function: Callable[..., Any] | None, names: list[str]) -> bool:
    """Return whether the only input goes in first place, because the function has no parameter of its name."""
    try:
        parameters = inspect.signature(function).parameters.values() if function is not None else ()
    except (TypeError, ValueError):
        return len(names) == 1
    return len(names) == 1 and not any(p.name == names[0] or p.kind is p.VAR_KEYWORD for p in parameters)


def _require_parameters(
    function: Callable[..., Any], text: str, inputs: list[str] | int, more: Mapping[str, Any], blocks: bool = False
) -> None:
    """Raise ConfigError where the function cannot be called with what it will be given."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    extra = dict(more)
    if blocks and "block" in signature.parameters:
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


def _lattice(patch: Mapping[str, int], overlap: Overlap, frame: ArrayInfo) -> Lattice:
    """Return the lattice of patches: channels whole, other axes that `patch` does not name one voxel at a time."""
    sizes = overlap.size if isinstance(overlap.size, Mapping) else dict.fromkeys(patch, overlap.size)
    for key, named in (("patch", patch), ("overlap.size", sizes)):
        for axis in named:
            if axis not in frame.axes:
                raise ConfigError(f"{key}: axis {axis!r} is not one of {', '.join(frame.axes)}")
    whole = {axis: n if axis == "c" else 1 for axis, n in zip(frame.axes, frame.domain.shape, strict=True)}
    shape = tuple(patch.get(axis, whole[axis]) for axis in frame.axes)
    shared = tuple(sizes.get(axis, 0) for axis in frame.axes)
    for axis, n, o in zip(frame.axes, shape, shared, strict=True):
        if n < 1:
            raise ConfigError(f"patch: {axis}: {n} is below 1")
        if not 0 <= o < n:
            raise ConfigError(
                f"overlap.size: {o} voxels along {axis} do not fit patches of {n}; it must be from 0 to {n - 1}"
            )
    return Lattice(frame.domain, shape, shared, overlap.mode)


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

"""`nuclei`: find cell nuclei of a known diameter, as labels and as a table of points.

Three looks at the image: a survey of its levels, the candidates of every block, then the masks of the nuclei chosen
among all candidates. How is written in docs/design/nuclei.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ndbatch.errors import PlanError, StepError
from ndbatch.geometry import Block, Box, Grid, Shape
from ndbatch.remotes.base import Array, Kind
from ndbatch.steps.base import ArrayInfo, Operation, Pass, Patch, State, Step
from ndbatch.steps.nuclei.background import PRESETS, Evening
from ndbatch.steps.nuclei.detection import Points, detect, detection_halo, fine_halo, merge, smooth
from ndbatch.steps.nuclei.learned import bind_network
from ndbatch.steps.nuclei.masks import label_masks, reach
from ndbatch.steps.nuclei.networks import Network
from ndbatch.steps.nuclei.space import Space, SurveyPass
from ndbatch.steps.nuclei.survey import LAG, Level
from ndbatch.steps.payload import pack, unpack
from ndbatch.units import Length, in_voxels

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

SMALLEST_DIAMETER = 3.0
"""In voxels of the finest axis; smaller blobs cannot be told from noise."""


class Nuclei(Step):
    """Find bright, roundish objects of about one size, such as nuclei or somata, and label each."""

    kind: ClassVar[str] = "nuclei"

    input: str
    """The image to look at."""
    diameter: Length
    """The diameter of a typical nucleus: a length such as 12 um, or voxels of the finest axis."""
    method: Annotated[str, Field(pattern="^(blobs|stardist|cellpose)$|:")] = "blobs"
    """blobs: ndbatch's own filter. stardist, cellpose: these networks (extras of their names). package.module:Class or
    script.py:Class: a network of your own, set up once a process with model and device, called with a patch (float32, 0 at the
    image's 1st and 1 at its 99.9th percentile) and the diameter in voxels; it returns labels, or labels and their scores."""
    model: str | None = None
    """The network's weights: a path from the configuration's folder (a StarDist folder, a Cellpose file), or the name of a
    published model, which its package then downloads."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where the network runs. auto: on a GPU where there is one."""
    patch: dict[str, int] | None = None
    """Extent of the patches a network is given, in voxels along named axes; a third of it must be more than the diameter."""
    preset: Literal["nuclei", "whole_brain"] = "nuclei"
    """What kind of image it is. nuclei: stained nuclei, sparse or dense. whole_brain: somata in light-sheet or block-face
    images of tissue: planes are divided by their background, objects look twice as long along z, weak ones are left out."""
    threshold: Literal["auto", "otsu"] | float = "auto"
    """Which candidates are nuclei. auto: those that respond at least half as strongly as the typical one (whole_brain: 0.7
    times). A number: those brighter inside than this intensity of the image. otsu: the same, with the Otsu threshold of the
    image."""
    output: str
    """The name of the labels."""
    points: str | None = None
    """The name of the table of nuclei: id, z, y, x (voxels of the seed), score, intensity, background, snr, diameter."""
    resources: dict[str, Annotated[float, Field(gt=0, strict=False)]] = {}  # noqa: RUF012 - pydantic copies it
    """What a worker must offer beside its core, such as {gpu: 1}; nothing but where it runs depends on it."""

    @model_validator(mode="after")
    def _method_fits(self) -> Nuclei:
        network = self.method != "blobs"
        for name in ("model", "patch"):
            if not network and getattr(self, name) is not None:
                raise ValueError(f"{name} goes with a network, such as method: stardist")
        if network and (self.threshold != "auto" or self.preset != "nuclei"):
            raise ValueError(f"threshold and preset go with method: blobs; {self.method} decides by itself")
        return self

    @property
    def asks(self) -> Mapping[str, float]:
        """What its workers must offer."""
        return self.resources

    def identity(self) -> dict[str, Any]:
        """Return the parameters, and for a network what its weights and source hold; where it runs is left out."""
        own = super().identity()
        own.pop("device")
        own.pop("resources")
        return own if self.method == "blobs" else {**own, **self._network().identity()}

    def _network(self) -> Network:
        return Network.of(self.method, self.model, self.device)

    @property
    def sources(self) -> dict[str, str]:
        """The array it reads."""
        return {"image": self.input}

    @property
    def products(self) -> dict[str, str]:
        """The labels, and the table of points if asked for."""
        return {"labels": self.output} | ({} if self.points is None else {"points": self.points})

    def bind(self, inputs: Mapping[str, ArrayInfo], dtypes: Mapping[str, np.dtype[Any]]) -> Operation:
        """Return the operation: two passes, labels of uint32 unless another integer dtype is asked for."""
        info = inputs["image"]
        dtype = np.dtype(dtypes.get("labels", np.uint32))
        if dtype.kind not in "ui":
            raise PlanError(f"labels are whole numbers and cannot be {dtype}; set dtype: uint32 for {self.output}")
        space, preset = Space.of(info), PRESETS[self.preset]
        wide = self._in_voxels(space)
        diameter = tuple(d * preset.elongation if name == "z" else d for name, d in zip(space.names, wide, strict=True))
        if self.method != "blobs":
            labels = replace(info, dtype=dtype, kind=Kind.LABELS)
            return bind_network(labels, self.points is not None, space, wide, self.patch, self._network())
        evening = Evening.of(space.domain, diameter, preset.local)
        steady = SurveyPass("survey", space.whole((LAG,) * len(space.axes)), space, preset.local)
        reach = _sum(detection_halo(diameter), evening.halo)
        found = _Detection("nuclei", space.whole(reach), space, diameter, self.threshold, preset.cut, evening)
        return _Labelling(
            arrays={"labels": replace(info, dtype=dtype, kind=Kind.LABELS)},
            tables=() if self.points is None else ("points",),
            halo=space.whole(_sum(fine_halo(diameter), evening.halo)),
            passes=(steady, found),
            working_bytes=44.0 if preset.local else 32.0,
            space=space,
            diameter=diameter,
            width=max(wide),
            evening=evening,
        )

    def _in_voxels(self, space: Space) -> tuple[float, ...]:
        diameter = in_voxels(self.diameter, space.voxel_size, len(space.axes), "diameter")
        if max(diameter) < SMALLEST_DIAMETER:
            raise PlanError(
                f"diameter: {self.diameter} is {max(diameter):.3g} voxels of the finest axis; nuclei smaller than "
                f"{SMALLEST_DIAMETER:g} voxels cannot be told from noise: read a finer level, or give a larger diameter"
            )
        return diameter


@dataclass(frozen=True)
class _Detection(Pass):
    name: str
    halo: Shape
    space: Space
    diameter: tuple[float, ...]
    threshold: Literal["auto", "otsu"] | float
    relative: float
    evening: Evening

    def map(self, inputs: Mapping[str, Patch], block: Block, states: Mapping[str, Any]) -> bytes:
        """Return the candidates of the block's core, and the level they were found with."""
        level: Level = states["survey"]
        image, box = self.space.patch(inputs["image"])
        found = detect(image, box, self.space.box(block.core), self.diameter, level, self.evening)
        known = np.array(astuple(level))
        return pack({**{name: getattr(found, name) for name in Points.__slots__}, "level": known})

    def reduce(self, payloads: Iterable[tuple[Block, bytes]], grid: Grid, scratch: Path) -> State:
        """Return the nuclei among the candidates of all blocks; they are held in memory, 44 bytes each."""
        level = Level(0.0, 0.0, 0.0, 0.0)
        parts: list[Points] = []
        for _, payload in payloads:
            arrays = unpack(payload)
            level = Level(*arrays["level"].tolist())
            if len(arrays["score"]) or not parts:
                parts.append(Points(**{name: arrays[name] for name in Points.__slots__}))
        cut = {"auto": None, "otsu": level.otsu}[self.threshold] if isinstance(self.threshold, str) else self.threshold
        nuclei = merge(parts, self.space.domain, self.diameter, level, cut, self.relative)
        return _Found(nuclei, level, self.space, self.diameter)


@dataclass(frozen=True)
class _Found(State):
    """All nuclei, in C-order of their seeds: the row is the id, counted from 1."""

    nuclei: Points
    level: Level
    space: Space
    diameter: tuple[float, ...]

    def select(self, block: Block, box: Box) -> tuple[Level, Points, Array]:
        """Return the level, and the nuclei whose masks may reach into `box` with their ids."""
        near = self.space.box(box).grow(reach(self.diameter))
        voxel = self.nuclei.voxel
        low, high = np.searchsorted(voxel[:, 0], [near.start[0], near.stop[0]])
        some = voxel[low:high]
        rows = low + np.flatnonzero(((some >= near.start) & (some < near.stop)).all(axis=1))
        return self.level, self.nuclei.take(rows), rows + 1

    def facts(self) -> dict[str, Any]:
        """Return the number of nuclei."""
        return {"nuclei": len(self.nuclei)}


@dataclass(frozen=True, kw_only=True)
class _Labelling(Operation):
    space: Space
    diameter: tuple[float, ...]
    width: float
    """The diameter in voxels of the finest axis."""
    evening: Evening

    def apply(
        self, inputs: Mapping[str, Patch], box: Box, block: Block, states: Mapping[str, Any]
    ) -> Mapping[str, Array | pa.RecordBatch]:
        """Return the labels of `box`, and a row for every nucleus whose seed lies in the core."""
        level, nuclei, ids = states["nuclei"]
        image, around = self.space.patch(inputs["image"])
        wanted, dtype = self.space.box(box), self.arrays["labels"].dtype
        if len(ids) and int(ids[-1]) > np.iinfo(dtype).max:
            raise StepError(f"nucleus {ids[-1]} does not fit {dtype}; set dtype: uint32 or uint64 for the labels")
        fine = smooth(self.evening.even(image, around, level)[0], self.diameter)[wanted.slices(around.start)]
        made: dict[str, Any] = {
            "labels": label_masks(fine, wanted, nuclei, ids, self.diameter, dtype).reshape(box.shape)
        }
        if self.tables:
            core = self.space.box(block.core)
            own = ((nuclei.voxel >= core.start) & (nuclei.voxel < core.stop)).all(axis=1)
            made["points"] = _rows(nuclei.take(own), ids[own], level, self.width, self.space.names)
        return made

    def finish(self, role: str, rows: Iterable[pa.RecordBatch], scratch: Path) -> Iterator[pa.RecordBatch]:
        """Return the table in order of id, whatever the blocks; as large as the state that the driver holds anyway."""
        import pyarrow as pa

        batches = list(rows)
        if batches:
            yield from pa.Table.from_batches(batches).sort_by("id").to_batches()


def _sum(a: Shape, b: Shape) -> Shape:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _rows(nuclei: Points, ids: Array, level: Level, diameter: float, names: str) -> pa.RecordBatch:
    """Return the table's rows: levels back in intensities of the image, the diameter in voxels of the finest axis."""
    import pyarrow as pa

    inside, outside = (part.astype(np.float64) for part in (nuclei.inside, nuclei.outside))
    return pa.RecordBatch.from_pydict(
        {
            "id": ids.astype(np.int64),
            **{name: nuclei.voxel[:, i] for i, name in enumerate(names)},
            "score": nuclei.score,
            "intensity": nuclei.intensity(nuclei.inside, level),
            "background": nuclei.intensity(nuclei.outside, level),
            "snr": (inside - outside) / level.noise if level.noise else np.full(len(ids), np.nan),
            "diameter": 2.0 * nuclei.radius.astype(np.float64) * diameter,
        }
    )

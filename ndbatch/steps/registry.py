"""From the key in the YAML to a step class: built in, by entry point (`ndbatch.steps`), or a user's `module:function`."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from ndbatch.errors import ConfigError
from ndbatch.steps.base import Step

GROUP = "ndbatch.steps"
BUILT_IN = {
    "copy": "ndbatch.steps.copy:Copy",
    "filter": "ndbatch.steps.filter:Filter",
    "threshold": "ndbatch.steps.threshold:Threshold",
    "components": "ndbatch.steps.components.step:Components",
    "nuclei": "ndbatch.steps.nuclei.step:Nuclei",
    "measure": "ndbatch.steps.measure.step:Measure",
    "objects": "ndbatch.steps.objects:Objects",
    "histogram": "ndbatch.steps.histogram:Histogram",
    "arithmetic": "ndbatch.steps.arithmetic.step:Arithmetic",
    "mask": "ndbatch.steps.mask:Mask",
    "downsample": "ndbatch.steps.downsample:Downsample",
    "project": "ndbatch.steps.downsample:Project",
    "density": "ndbatch.steps.density:Density",
    "normalize": "ndbatch.steps.normalize:Normalize",
    "erode": "ndbatch.steps.morphology:Erode",
    "dilate": "ndbatch.steps.morphology:Dilate",
    "open": "ndbatch.steps.morphology:Open",
    "close": "ndbatch.steps.morphology:Close",
    "contrast": "ndbatch.steps.contrast.step:Contrast",
    "background": "ndbatch.steps.background.step:Background",
    "fill": "ndbatch.steps.fill:Fill",
    "distance": "ndbatch.steps.distance:Distance",
    "expand_labels": "ndbatch.steps.expand:ExpandLabels",
    "relabel": "ndbatch.steps.relabel.step:Relabel",
    "watershed": "ndbatch.steps.watershed:Watershed",
}


@cache
def step_names() -> dict[str, str]:
    """Return `module:class` of every known step, those of installed packages included."""
    found = {point.name: point.value for point in entry_points(group=GROUP)}
    return {**found, **BUILT_IN}


def step_class(kind: str) -> type[Step]:
    """Return the class of the step `kind`, imported now; ConfigError names the nearest step where it is unknown.

    A `kind` with a colon, `package.module:function`, is a user's function.
    """
    if ":" in kind:
        from ndbatch.steps.function.step import Function

        return Function
    known = step_names()
    if kind not in known:
        near = difflib.get_close_matches(kind, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known steps: {', '.join(sorted(known))}"
        raise ConfigError(f"unknown step {kind!r}; {hint} (a function of your own is written package.module:function)")
    module, _, name = known[kind].partition(":")
    loaded: type[Step] = getattr(import_module(module), name)
    return loaded

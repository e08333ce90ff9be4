"""New channels: the collection, the coordinate frame and the experiment they need are made first, or must fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ndbatch.errors import Conflict, NotFound, PlanError
from ndbatch.remotes.base import ArraySpec, Kind
from ndbatch.remotes.boss.geometry import PROBABILITY, differences, frame_document
from ndbatch.remotes.boss.service import Document, Service
from ndbatch.remotes.http.client import in_flight

NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")


def require_names(names: Sequence[str], url: str) -> None:
    """Raise PlanError for names that the service does not take."""
    for name in names:
        if not NAME.fullmatch(name):
            raise PlanError(f"{url}: {name!r} is no name for BOSS; use letters, digits, _ and -, at most 255")


def create(service: Service, names: Sequence[str], spec: ArraySpec, url: str) -> None:
    """Make the channel `names` for `spec`, and what is missing above it. Conflict where something is in the way."""
    if _found(lambda: service.document(names)) is not None:
        raise Conflict(f"{url} exists already; remove it or choose another url", url=url)
    if _found(lambda: service.document(names[:1])) is None:
        with suppress(Conflict):  # somebody else made it meanwhile
            service.create(names[:1], {"description": ""})
    _require_experiment(service, names, spec, url)
    annotation = spec.kind is Kind.LABELS
    try:
        service.create(
            names,
            {
                "description": PROBABILITY if spec.kind is Kind.PROBABILITY else "",
                "type": "annotation" if annotation else "image",
                "datatype": spec.dtype.name,
                "base_resolution": 0,
                "default_time_sample": 0,
                "sources": [],
                "related": [],
            },
        )
    except Conflict as error:
        raise Conflict(f"{url} exists already: {error.message}", **error.fields) from None


def _require_experiment(service: Service, names: Sequence[str], spec: ArraySpec, url: str) -> None:
    """Make the experiment and its frame, or check that they have the extent, the voxel size and the times of `spec`."""
    wanted, times = frame_document(spec), spec.shape[0] if "t" in spec.axes else 1
    experiment = _found(lambda: service.document(names[:2]))
    if experiment is None:
        name = f"CF_{names[0]}_{names[1]}"
        with suppress(Conflict):
            service.create_frame(name, wanted)
        _require_same(service.frame(name), wanted, f"the coordinate frame {name}", url)
        with suppress(Conflict):
            service.create(names[:2], _experiment(name, spec, times))
        experiment = service.document(names[:2])
    where = f"the experiment {names[0]}/{names[1]}"
    _require_same(service.frame(str(experiment["coord_frame"])), wanted, where, url)
    if int(experiment["num_time_samples"]) != times:
        raise Conflict(
            f"{url}: {where} has {experiment['num_time_samples']} time samples and the volume {times}; choose another experiment",
            url=url,
        )
    if int(experiment["num_hierarchy_levels"]) < spec.levels:
        _require_no_levels(service, names, experiment, spec.levels, url)
        service.update(names[:2], {"num_hierarchy_levels": spec.levels})


def _require_no_levels(service: Service, names: Sequence[str], experiment: Document, levels: int, url: str) -> None:
    """Raise Conflict where more levels of an experiment would leave a channel with levels that it tells of and has not."""
    paths = [(*names[:2], str(name)) for name in experiment.get("channels", [])]
    for document in in_flight(partial(service.document, path) for path in paths):
        if str(document.get("downsample_status", "NOT_DOWNSAMPLED")) != "NOT_DOWNSAMPLED":
            raise Conflict(
                f"{url}: the experiment {names[0]}/{names[1]} has {experiment['num_hierarchy_levels']} levels, of which those of "
                f"{document.get('name')} are made, and {levels} are asked for; ask for no more, or choose another experiment",
                url=url,
            )


def _experiment(frame: str, spec: ArraySpec, times: int) -> Mapping[str, Any]:
    return {
        "description": "",
        "coord_frame": frame,
        "num_hierarchy_levels": spec.levels,
        "hierarchy_method": "anisotropic",
        "num_time_samples": times,
        "time_step": 0,
        "time_step_unit": "seconds",
    }


def _require_same(frame: Document, wanted: Document, where: str, url: str) -> None:
    if found := differences(frame, wanted):
        raise Conflict(
            f"{url}: {where} has {', '.join(found)}; all channels of an experiment share one extent, so choose another "
            "experiment",
            url=url,
        )


def _found(ask: Callable[[], Document]) -> Document | None:
    try:
        return ask()
    except NotFound:
        return None

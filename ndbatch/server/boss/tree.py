"""The catalogue as BOSS sees it: datasets are collections, projects experiments; coordinate frames are extents of projects.

Names of projects are unique in the catalogue (they are the tokens of ndstore); experiments of two collections may have one name.
An experiment whose name is taken is kept as the project `collection-experiment`, and its own name beside it. A coordinate
frame that is made by name is a document until an experiment uses it; every other project has a frame `CF_collection_experiment`
of its own that follows from its extent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ndbatch.errors import Conflict, NotFound
from ndbatch.remotes.boss.geometry import AXES, DTYPES, TO_MICROMETRES
from ndbatch.server.boss.errors import absent, bad
from ndbatch.server.catalogue import Catalogue, Channel, Project
from ndbatch.server.writes import APART, of_dvid

COLLECTIONS, FRAMES = "boss:collection", "boss:frame"
WIDER = {"bool": "uint8", "uint32": "uint64"}
"""Types of voxel that are served as another, which holds every value of them."""
CREATOR = "ndbatch"
Document = dict[str, Any]


def own(kept: Project | Channel) -> Mapping[str, Any]:
    """Return what BOSS keeps of a project or a channel that ndbatch has no word for."""
    facts: Mapping[str, Any] = kept.extra.get("boss", {})
    return facts


def with_own(kept: Project | Channel, **facts: Any) -> dict[str, Any]:
    """Return the field `extra` of a project or a channel with more facts of BOSS."""
    return {**kept.extra, "boss": {**own(kept), **facts}}


def datatype(channel: Channel) -> str | None:
    """Return the type under which a channel is served, None where BOSS has none for it, or no frame."""
    if of_dvid(channel).get(APART):
        return None
    served = WIDER.get(channel.dtype, channel.dtype)
    return served if served in DTYPES else None


class Tree:
    """Collections, experiments, channels and coordinate frames over one catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    # -- collections ---------------------------------------------------------------------------------------------------

    def collections(self) -> list[str]:
        """Return the names of all collections, sorted."""
        return sorted(
            {project.dataset for project in self.catalogue.projects()} | set(self.catalogue.keys(COLLECTIONS))
        )

    def collection(self, name: str) -> Document:
        """Return what is kept of a collection beside its experiments. 404 where there is none."""
        kept = self.catalogue.document(COLLECTIONS, name)
        if kept is not None:
            found: Document = json.loads(kept)
            return found
        if any(project.dataset == name for project in self.catalogue.projects()):
            return {}
        raise absent(f"the collection {name}")

    def keep_collection(self, name: str, facts: Mapping[str, Any]) -> None:
        """Keep what is known of a collection."""
        self.catalogue.keep(COLLECTIONS, name, json.dumps(dict(facts)).encode())

    # -- experiments ---------------------------------------------------------------------------------------------------

    def experiments(self, collection: str) -> dict[str, Project]:
        """Return the projects of a collection by the names of their experiments, sorted."""
        self.collection(collection)
        found = {experiment_of(p): p for p in self.catalogue.projects() if p.dataset == collection}
        return dict(sorted(found.items()))

    def experiment(self, collection: str, name: str) -> Project:
        """Return the project behind an experiment. 404 where there is none."""
        with suppress(NotFound):  # every cutout asks: nearly always the project has the name of the experiment
            project = self.catalogue.project(name)
            if (project.dataset, experiment_of(project)) == (collection, name):
                return project
        found = self.experiments(collection).get(name)
        if found is None:
            raise absent(f"the experiment {collection}/{name}")
        return found

    def add_experiment(self, project: Project, name: str) -> Project:
        """Keep a new experiment: under its own name, or one with its collection before it where that is taken."""
        for kept in (name, *(f"{project.dataset}-{name}{more}" for more in ("", *(f"-{n}" for n in range(2, 100))))):
            new = Project(**{**vars(project), "name": kept, "extra": with_own(project, experiment=name)})
            try:
                self.catalogue.add_project(new)
                return new
            except Conflict:
                continue
        raise bad(f"{project.dataset}/{name}: every name for it is taken; choose another")

    # -- channels ------------------------------------------------------------------------------------------------------

    def channels(self, project: Project) -> list[Channel]:
        """Return the channels of an experiment that BOSS has a type for, sorted."""
        return [channel for channel in self.catalogue.channels(project.name) if datatype(channel)]

    def channel(self, collection: str, experiment: str, name: str) -> tuple[Project, Channel]:
        """Return a channel and its project. 404 where there is none, and where BOSS has no type for its voxels."""
        project = self.experiment(collection, experiment)
        try:
            found = self.catalogue.channel(project.name, name)
        except NotFound:
            raise absent(f"the channel {collection}/{experiment}/{name}") from None
        if not datatype(found):
            raise absent(f"a type for {found.dtype}, which {collection}/{experiment}/{name} holds, in BOSS,")
        return project, found

    # -- coordinate frames -----------------------------------------------------------------------------------------------

    def frames(self) -> list[str]:
        """Return the names of all coordinate frames, sorted."""
        return sorted({frame_name(p) for p in self.catalogue.projects()} | set(self.catalogue.keys(FRAMES)))

    def frame(self, name: str) -> Document:
        """Return a coordinate frame as BOSS has it. 404 where there is none."""
        kept = self.catalogue.document(FRAMES, name)
        if kept is not None:
            found: Document = json.loads(kept)
            return found
        for project in self.catalogue.projects():
            if frame_name(project) == name:
                return frame_document(project)
        raise absent(f"the coordinate frame {name}")

    def keep_frame(self, name: str, facts: Mapping[str, Any]) -> None:
        """Keep a coordinate frame."""
        self.catalogue.keep(FRAMES, name, json.dumps(dict(facts)).encode())

    def users(self, frame: str) -> list[Project]:
        """Return the projects that lie in a coordinate frame."""
        return [project for project in self.catalogue.projects() if frame_name(project) == frame]


def experiment_of(project: Project) -> str:
    """Return the name of the experiment that a project is."""
    return str(own(project).get("experiment", project.name))


def frame_name(project: Project) -> str:
    """Return the name of the coordinate frame of a project."""
    return str(own(project).get("coord_frame") or f"CF_{project.dataset}_{experiment_of(project)}")


def frame_document(project: Project) -> Document:
    """Return the frame that follows from the extent of a project, in nanometres."""
    facts: Document = {"name": frame_name(project), "description": "", "voxel_unit": "nanometers"}
    for axis, start, size, voxel in zip(AXES, project.offset, project.shape, project.voxel_size, strict=True):
        facts |= {f"{axis}_start": start, f"{axis}_stop": start + size, f"{axis}_voxel_size": round(voxel * 1e3, 6)}
    return facts


def extent(frame: Mapping[str, Any]) -> dict[str, Any]:
    """Return shape, offset and voxel size (micrometres), z, y, x, of a frame, as fields of a project."""
    scale = TO_MICROMETRES[frame["voxel_unit"]]
    starts = tuple(int(frame[f"{axis}_start"]) for axis in AXES)
    stops = tuple(int(frame[f"{axis}_stop"]) for axis in AXES)
    return {
        "offset": starts,
        "shape": tuple(b - a for a, b in zip(starts, stops, strict=True)),
        "voxel_size": tuple(float(frame[f"{axis}_voxel_size"]) * scale for axis in AXES),
    }

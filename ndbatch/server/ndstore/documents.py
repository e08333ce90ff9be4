"""Documents of the data service beside `info`: what is public, and `projinfo`, the same facts as an HDF5 file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from ndbatch.server.ndstore.tokens import info

if TYPE_CHECKING:
    from ndbatch.server.service import Service

DATASETS = "ndstore:dataset"
"""Documents: datasets that were made by name, which may have no project yet."""


def public_datasets(service: Service) -> list[str]:
    """Return the names of all datasets, sorted."""
    projects = {project.dataset for project in service.catalogue.projects()}
    return sorted(projects | set(service.catalogue.keys(DATASETS)))


def project_info(service: Service, token: str) -> Response:
    """Return what a token is as HDF5: groups PROJECT, DATASET and CHANNELS, triples in x, y, z."""
    import h5py

    facts, body, text = info(service, token), io.BytesIO(), h5py.string_dtype()
    with h5py.File(body, "w") as file:

        def words(where: Any, **values: str) -> None:
            for name, value in values.items():
                where.create_dataset(name, (1,), dtype=text, data=value)

        project, dataset = facts["project"], facts["dataset"]
        words(
            file.create_group("PROJECT"),
            NAME=project["name"],
            HOST="localhost",
            ND_VERSION=project["ndstore_version"],
            SCHEMA_VERSION=project["schema_version"],
        )
        group = file.create_group("DATASET")
        words(group, NAME=dataset["name"])
        group["RESOLUTIONS"] = dataset["resolutions"]
        for name, key in (
            ("IMAGE_SIZE", "imagesize"),
            ("OFFSET", "offset"),
            ("VOXELRES", "voxelres"),
            ("CUBE_DIMENSION", "cube_dimension"),
        ):
            levels = group.create_group(name)
            for level, values in dataset[key].items():
                levels[level] = values
        channels = file.create_group("CHANNELS")
        for name, channel in facts["channels"].items():
            one = channels.create_group(name)
            words(one, NAME=name, TYPE=channel["channel_type"], DATATYPE=channel["datatype"])
            for key in ("resolution", "propagate"):
                one.create_dataset(key.upper(), (1,), dtype="uint8", data=channel[key])
            for key in ("readonly", "exceptions"):
                one.create_dataset(key.upper(), (1,), dtype=bool, data=bool(channel[key]))
            one["WINDOWRANGE"], one["TIMERANGE"] = channel["windowrange"], channel["timerange"]
    return Response(body.getvalue(), media_type="product/hdf5")

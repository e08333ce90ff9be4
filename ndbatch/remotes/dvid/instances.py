"""The data instances of a repository: which there are, a new one, and their tags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ndbatch.remotes.dvid.service import Place
from ndbatch.remotes.http.client import segment


def instances(place: Place) -> dict[str, dict[str, Any]]:
    """Return the info of every data instance of the repository, by name. NotFound for an unknown version."""
    return dict(place.repository()["DataInstances"])


def add(place: Place, settings: Mapping[str, str]) -> None:
    """Make an instance from settings, all of them strings. Conflict where the name is taken, Denied at a locked version.

    Not sent twice: the second request would meet what the first one made.
    """
    body = json.dumps(dict(settings)).encode()
    place.request("POST", f"/repo/{segment(place.uuid)}/instance", body=body, again=False)


def tag(place: Place, tags: Mapping[str, str]) -> None:
    """Add or replace tags of an instance, the others stay."""
    place.post("/tags", json.dumps(dict(tags)).encode())

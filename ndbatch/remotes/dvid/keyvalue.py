"""Keyvalue and neuronjson instances: bytes, or JSON objects, by key, as a version sees them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ndbatch.errors import NotFound
from ndbatch.remotes.dvid.service import Place
from ndbatch.remotes.http.client import segment


class KeyValues:
    """Bytes by key in a keyvalue instance."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def keys(self, first: str = "", last: str = "") -> list[str]:
        """Return the keys, sorted; from `first` to `last`, both included, where these are given."""
        path = f"/keyrange/{segment(first)}/{segment(last)}" if first or last else "/keys"
        return sorted(str(key) for key in self.place.get(path).json() or [])

    def get(self, key: str) -> bytes:
        """Return the bytes under a key. NotFound where there are none."""
        reply = self.place.get(f"/key/{segment(key)}", expect=(200, 404))
        if reply.status == 404:
            raise NotFound(f"{self.place.url}: there is no key {key!r}", url=self.place.url)
        return reply.body

    def set(self, key: str, value: bytes) -> None:
        """Keep bytes under a key, in place of what was there. Denied at a locked version."""
        self.place.post(f"/key/{segment(key)}", value)

    def delete(self, key: str) -> None:
        """Remove a key from the version; its ancestors keep it."""
        self.place.request("DELETE", self.place.data(f"/key/{segment(key)}"))

    def documents(self, keys: list[str]) -> dict[str, Any]:
        """Return the JSON documents of keys; what is not there is an empty object."""
        found: dict[str, Any] = self.place.get("/keyvalues", {"json": "true"}, body=json.dumps(keys).encode()).json()
        return found


class NeuronRecords:
    """JSON objects by body in a neuronjson instance; the server stamps each field with who set it and when."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def all(self) -> list[dict[str, Any]]:
        """Return the objects of all bodies; `bodyid` of each is its body."""
        found: list[dict[str, Any]] = self.place.get("/all").json() or []
        return found

    def get(self, body: int) -> dict[str, Any]:
        """Return the object of a body. NotFound where there is none."""
        found: dict[str, Any] = self.place.get(f"/key/{int(body)}").json()
        return found

    def set(self, body: int, fields: Mapping[str, Any], replace: bool = False) -> None:
        """Merge fields into the object of a body, or have them `replace` it; None removes a field."""
        query = {"replace": "true"} if replace else {}
        self.place.post(f"/key/{int(body)}", json.dumps({"bodyid": int(body), **fields}).encode(), query)

    def query(self, wanted: Mapping[str, Any] | list[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the objects whose fields are as `wanted`; of a list of such, any."""
        body = json.dumps(wanted if isinstance(wanted, list) else dict(wanted)).encode()
        found: list[dict[str, Any]] = self.place.get("/query", body=body).json() or []
        return found

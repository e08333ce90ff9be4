"""Keys and values kept with a resource of BOSS: strings, one request each; documents of any length over them.

Both travel in the address of a request, which front ends cut at a few KiB: what is longer is kept in parts, under keys that hold
a digest of the whole, and the key itself names digest and number of them. Parts are written first and old ones removed last, so
that a value that is read is never a mixture of two.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from ndbatch.errors import Corrupt, RemoteError
from ndbatch.remotes.boss.service import BAD_ARGUMENT, Service
from ndbatch.remotes.http.client import in_flight, segment

LONGEST = 1500
"""Characters of a value, escaped, beyond which it is kept in parts."""
PARTED = re.compile(r"ndbatch-parts:([0-9a-f]{16}):(\d{1,4})")
PART = re.compile(r"ndbatch-part:.*:[0-9a-f]{16}:\d{1,4}", re.DOTALL)


class Metadata:
    """The keys of one resource: `names` are collection, experiment, channel, or the first of them."""

    def __init__(self, service: Service, names: Sequence[str]) -> None:
        self._client = service.client
        self._path = f"/v1/meta/{'/'.join(map(segment, names))}/"

    def keys(self) -> list[str]:
        """Return the keys, sorted."""
        return sorted(key for key in self._stored_keys() if not PART.fullmatch(key))

    def __getitem__(self, key: str) -> str:
        """Return the value of `key`; KeyError where there is none, Corrupt where parts of it are missing."""
        value = self._get(key)
        if value is None:
            raise KeyError(key)
        found = PARTED.fullmatch(value)
        if found is None:
            return value
        parts = list(in_flight(partial(self._get, name) for name in _parts(key, found[1], int(found[2]))))
        whole = "".join(part or "" for part in parts)
        if _digest(whole) != found[1]:
            raise Corrupt(f"{self._client.base}{self._path}: parts of the value of {key!r} are missing; set it again")
        return whole

    def __setitem__(self, key: str, value: str) -> None:
        """Keep `value` under `key`, in place of what was there."""
        old = self._get(key)
        if len(quote(value, safe="")) <= LONGEST:
            self._put(key, value, old)
        else:
            pieces, digest = _pieces(value), _digest(value)
            for name, piece in zip(_parts(key, digest, len(pieces)), pieces, strict=True):
                self._put(name, piece, self._get(name))
            self._put(key, f"ndbatch-parts:{digest}:{len(pieces)}", old)
        if old is not None and (found := PARTED.fullmatch(old)) and found[1] != _digest(value):
            for name in _parts(key, found[1], int(found[2])):
                self._delete(name)

    def __delitem__(self, key: str) -> None:
        """Remove a key; KeyError where there is none."""
        old = self._get(key)
        if old is None:
            raise KeyError(key)
        self._delete(key)
        if found := PARTED.fullmatch(old):
            for name in _parts(key, found[1], int(found[2])):
                self._delete(name)

    def document(self) -> dict[str, Any]:
        """Return all keys with their values: JSON where a value is JSON, else the string."""
        keys = self.keys()
        values = in_flight(partial(self.__getitem__, key) for key in keys)
        return {key: _read(value) for key, value in zip(keys, values, strict=True)}

    def update(self, values: Mapping[str, Any]) -> None:
        """Set keys: strings as they are, unless they would be read as JSON; everything else as JSON."""
        for key, value in values.items():
            self[key] = _written(value)

    # -- one request ---------------------------------------------------------------------------------------------------------

    def _stored_keys(self) -> list[str]:
        reply = self._client.get(self._path, headers={"Accept": "application/json"})
        return [str(key) for key in reply.json().get("keys", ())]

    def _get(self, key: str) -> str | None:
        try:
            return str(self._client.get(self._path, query={"key": key}).json()["value"])
        except RemoteError as error:
            _require_key_error(error)
            return None

    def _put(self, key: str, value: str, old: str | None) -> None:
        """There is no way to set a key whatever is there: one that was read as absent is made, and changed if it came since."""
        query = {"key": key, "value": value}
        if old is None:
            try:
                self._client.post(self._path, query=query, expect=(201,))
                return
            except RemoteError as error:
                _require_key_error(error)
        if old != value:
            self._client.put(self._path, query=query)

    def _delete(self, key: str) -> None:
        try:
            self._client.delete(self._path, query={"key": key}, expect=(204,))
        except RemoteError as error:
            _require_key_error(error)


def _require_key_error(error: RemoteError) -> None:
    """Raise an error again, unless it says that a key is not there (or is there already: both have one code)."""
    if error.fields.get("code") != BAD_ARGUMENT:
        raise error


def _parts(key: str, digest: str, count: int) -> list[str]:
    return [f"ndbatch-part:{key}:{digest}:{place}" for place in range(count)]


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:16]


def _pieces(value: str) -> list[str]:
    """Cut a value so that each piece is at most `LONGEST` characters escaped."""
    pieces, piece, size = [], "", 0
    for character in value:
        cost = len(quote(character, safe=""))
        if size + cost > LONGEST:
            pieces.append(piece)
            piece, size = "", 0
        piece += character
        size += cost
    return [*pieces, piece]


def _read(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _written(value: Any) -> str:
    if isinstance(value, str) and _read(value) is value:
        return value
    return json.dumps(value, ensure_ascii=False)

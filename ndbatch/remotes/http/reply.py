"""What a service answered, what its statuses mean, and what of a request may be shown: never a secret."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from ndbatch.errors import Conflict, Corrupt, Denied, NdbatchError, NoRoom, NotFound, RemoteError, Transient
from ndbatch.remotes.address import SECRET

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may pass by themselves."""
REQUEST_IDS = ("x-request-id", "x-amzn-requestid", "x-amz-request-id", "x-trace-id", "x-correlation-id")
"""Headers in which services name a request, so that their operators find it in a log."""
SAID = 300
"""Characters of a service's own words that an error repeats."""


@dataclass(frozen=True)
class Reply:
    """What a service answered: status, headers (names in small letters), and the whole body, unpacked.

    `url` is what was asked for, as it may be shown: values of secret options are `***`.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    url: str

    @property
    def text(self) -> str:
        """The body as text, broken bytes replaced."""
        return self.body.decode("utf-8", "replace")

    @property
    def request_id(self) -> str:
        """The service's number for the request; empty where it gave none."""
        return next((self.headers[name] for name in REQUEST_IDS if self.headers.get(name)), "")

    def json(self) -> Any:
        """The body as JSON; Corrupt where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Corrupt(f"{self.url} answered with something that is not JSON ({error})", url=self.url) from None


Meaning = Callable[[Reply], NdbatchError | None]
"""What a service's answer means where its codes are not those of the standard; None leaves it to the standard."""


def standard_meaning(reply: Reply) -> NdbatchError:
    """Return the error that a status stands for, with the service's own words and its number for the request.

    Transient for `TRANSIENT`; Denied for 401 and 403, NotFound for 404 and 410, Conflict for 409, NoRoom for 507; else
    RemoteError. The fields `url`, `status` and, where there is one, `request` say the same to a program.
    """
    said = " ".join(re.sub(r"<[^>]{0,200}>", " ", reply.text[: 20 * SAID]).split())[:SAID] or "nothing more was said"
    if reply.status in (301, 302, 303, 307, 308):
        said = f"it is now at {shown(reply.headers.get('location', 'another place'))}; use that address"
    named = f" (request {reply.request_id})" if reply.request_id else ""
    message = f"{reply.url} answered {reply.status}: {said}{named}"
    kinds: dict[int, type[RemoteError]] = {
        401: Denied,
        403: Denied,
        404: NotFound,
        409: Conflict,
        410: NotFound,
        507: NoRoom,
    }
    kind = Transient if reply.status in TRANSIENT else kinds.get(reply.status, RemoteError)
    facts = {"request": reply.request_id} if reply.request_id else {}
    return kind(message, url=reply.url, status=reply.status, **facts)


def shown(url: str) -> str:
    """Return `url` as errors and logs may show it: without user and password, values of secret options as `***`."""
    head, mark, query = url.partition("?")
    head = re.sub(r"(://)[^/@]*@", r"\1", head)
    pairs = [pair.partition("=") for pair in query.split("&")] if mark else []
    hidden = "&".join(f"{name}{sign}{'***' if sign and SECRET.search(name) else value}" for name, sign, value in pairs)
    return f"{head}{mark}{hidden}"


def secrets_of(url: str, headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return the secrets that a request carries, each as it is written in the URL and as it is meant."""
    found = [value for name, value in parse_qsl(urlsplit(url).query) if SECRET.search(name)]
    for name, value in headers.items():
        if SECRET.search(name) or name.lower() in ("cookie", "x-api-key"):
            found += [value, value.rpartition(" ")[2]]
    return tuple(sorted({one for value in found for one in (value, quote(value, safe="")) if one}, key=len)[::-1])


def without_secrets(error: NdbatchError, secrets: Iterable[str]) -> NdbatchError:
    """Return `error` with `***` for every one of `secrets`: some services repeat what they were told."""
    message, fields = error.message, dict(error.fields)
    for secret in secrets:
        message = message.replace(secret, "***")
        fields = {k: v.replace(secret, "***") if isinstance(v, str) else v for k, v in fields.items()}
    return error if (message, fields) == (error.message, error.fields) else type(error)(message, **fields)

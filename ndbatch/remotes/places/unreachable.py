"""Why a host cannot be reached, in our words, from what curl, Amazon's library or the system said of it."""

from __future__ import annotations

import re

_HOST = re.compile(r"resolve host: (?P<unknown>[\w.-]*\w)|Failed to connect to (?P<silent>[^\s:]+(?: port |:)\d+)")
_NO_HOST = re.compile(
    r"Could not resolve host|Name or service not known|nodename nor servname|Temporary failure in name resolution"
    r"|No address associated with hostname"
)
_SILENT = re.compile(
    r"(?:Failed to|Could not|Couldn't) connect|Connection refused|No route to host|Network is unreachable"
    r"|Connection reset"
)
_CERTIFICATE = re.compile(r"certificate|SSL|TLS", re.IGNORECASE)
_LATE = re.compile(r"timed out|Timeout was reached|timeout", re.IGNORECASE)
_NO_BUCKET = re.compile(
    r"NoSuchBucket|NO_SUCH_BUCKET|bucket\b[^.\n]{0,80}\b(?:does not|doesn't) exist|no such bucket", re.IGNORECASE
)


def unreachable(text: str, place: str) -> str | None:
    """Return the reason and what to do, a part of a sentence; None where `text` is about something else.

    `place` is that of the address: s3, gs, http, https.
    """
    server = "endpoint" if place == "s3" else "address"
    named = _HOST.search(text)
    if _NO_HOST.search(text):
        host = named["unknown"] if named else None
        return f"{f'there is no host {host}' if host else 'its host is not known'}; check the {server} and the network"
    if _SILENT.search(text):
        host = named["silent"] if named else None
        return f"{host or 'it'} does not answer; check the {server} and whether the server runs"
    if _LATE.search(text):
        return "no answer in time; look whether the server is busy and try again"
    if _CERTIFICATE.search(text):
        return f"its certificate is not accepted; check the {server}, or name the authority by SSL_CERT_FILE"
    return None


def names_no_bucket(text: str) -> bool:
    """Return whether `text` says that a bucket does not exist."""
    return _NO_BUCKET.search(text) is not None

"""The digest that travels with a body, so that bytes damaged on the way are never taken for voxels.

The header is `Content-Digest: sha-256=:BASE64:` of RFC 9530, over the body as it is sent (after any Content-Encoding). The
client sends it with every body and asks for it (`Want-Content-Digest`); the service of ndbatch sends it to who asks; each
checks what it is sent. Where the other side knows nothing of it nothing is checked here, and what remains is Content-Length and
what the format itself can tell.
SHA-256 takes 0.7 ms a MiB here, less than a loopback connection; CRC-32 would take 0.4 and is no algorithm of the RFC.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

HEADER, WANTED = "Content-Digest", "Want-Content-Digest"
ASKED = "sha-256=10"
"""Value of Want-Content-Digest."""
KNOWN = re.compile(r"(?:^|,)\s*(sha-256|sha-512)=:([A-Za-z0-9+/=]*):")


def content_digest(body: bytes | memoryview) -> str:
    """Return the value of the header for `body`."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def intact(body: bytes | memoryview, header: str) -> bool:
    """Return whether `body` is what `header` (the value of Content-Digest) was made of; True where it says nothing known."""
    for name, value in KNOWN.findall(header):
        try:
            expected = base64.b64decode(value, validate=True)
        except binascii.Error:
            return False
        if hashlib.new(name.replace("-", ""), body).digest() != expected:
            return False
    return True

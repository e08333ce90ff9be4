"""Neuroglancer's own viewer under `/neuroglancer/`, from the package `neuroglancer` where it is installed: no request leaves the
machine. Its state stands behind `#!` in the address (https://github.com/google/neuroglancer, `UrlHashBinding`).
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ndbatch.errors import NotFound
from ndbatch.remotes.base import Kind
from ndbatch.server.calls import Call, as_json, endpoint, plainly
from ndbatch.server.chunked.content import content

if TYPE_CHECKING:
    from ndbatch.server.service import Service

AT = "/neuroglancer/v/1"
"""Where the viewer stands. The build in the package asks for `/v/NAME/` in its address, the name of a viewer of Python's."""
ALONE = b"<script>EventSource = class { constructor() { setTimeout(() => this.onopen?.()) } close() {} }</script>"
"""What lets that build run without Python's server behind it: events that never come. Its state is that of the address."""


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the viewer's files, and of what it asks of the server behind it."""

    def file(call: Call) -> Response:
        name = call.names["file"] or "index.html"
        found = files().get(name)
        if found is None:
            raise NotFound(
                f"there is no file {name} of the viewer"
                if files()
                else "the viewer is not installed; pip install 'ndbatch[viewer]' on the machine of the service"
            )
        body = found.read_bytes()
        if name == "index.html":
            body = body.replace(b"<script", ALONE + b"<script", 1)
        return content(call, body, mimetypes.guess_type(name)[0] or "application/octet-stream")

    def nobody(call: Call) -> Response:
        return as_json({"generation": 1, "credentials": {}})

    limit = service.body_limit
    return [
        Route(f"{AT}/{{file:path}}", endpoint(file, plainly, limit), methods=["GET"]),
        # Its source dvid:// asks Python's server who it is before anything else; reading needs no name here.
        Route("/neuroglancer/credentials/{name}", endpoint(nobody, plainly, limit), methods=["POST"]),
    ]


@cache
def files() -> dict[str, Path]:
    """Return the files of the viewer by name; none where the package is not installed. The package itself is not imported."""
    spec = find_spec("neuroglancer")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent / "static" / "client"
    return {path.name: path for path in folder.glob("*") if path.is_file() and path.suffix != ".map"}


def layer(source: str, name: str, kind: str, contrast: tuple[float, float] | None = None) -> dict[str, Any]:
    """Return a layer of the viewer: `source` as Neuroglancer names it; `contrast` are the values shown black and white."""
    result: dict[str, Any] = {
        "type": "segmentation" if kind == Kind.LABELS else "image",
        "source": source,
        "name": name,
    }
    if contrast is not None and kind != Kind.LABELS and contrast[0] < contrast[1]:
        result["shaderControls"] = {"normalized": {"range": list(contrast)}}
    return result


def link(layers: Sequence[Mapping[str, Any]], layout: str = "4panel") -> str:
    """Return the path of the viewer that shows `layers`, on the service that serves it."""
    shown = {"layers": list(layers), "layout": layout}
    return f"{AT}/#!{quote(json.dumps(shown))}"

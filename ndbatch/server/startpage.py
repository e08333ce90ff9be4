"""The start page: what is served, with a picture of each volume and addresses to copy. It needs nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files as resources
from string import Template
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ndbatch.errors import NdbatchError, NotFound
from ndbatch.remotes.base import Volume
from ndbatch.report.markup import Markup, element, joined
from ndbatch.report.words import nbytes
from ndbatch.server import viewer
from ndbatch.server.addresses import Known, addresses
from ndbatch.server.calls import Call, endpoint, plainly
from ndbatch.server.chunked.content import content
from ndbatch.server.thumbnails import Thumbnails

if TYPE_CHECKING:
    from ndbatch.server.catalogue import Channel, Project
    from ndbatch.server.service import Service

HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")
WRITING = {
    "token": "Writing needs a token, in the header Authorization: Token …; the terminal of the service says where it is.",
    "anyone": "Anyone who reaches this page may write.",
    "nobody": "Nobody may write.",
}


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the page `/`, its pictures, and the links into the viewer."""
    thumbnails = Thumbnails(service)

    def page(call: Call) -> Response:
        return HTMLResponse(_page(service, base_of(call)), headers={"Content-Security-Policy": _policy()})

    def picture(call: Call) -> Response:
        channel = service.catalogue.channel(call.names["project"], call.names["channel"])
        return content(call, thumbnails.of(channel).png, "image/png")

    def view(call: Call) -> Response:
        project = service.catalogue.project(call.names["project"])
        channel = service.catalogue.channel(project.name, call.names["channel"])
        source = _viewed(addresses(service, base_of(call), project, channel))
        shown = viewer.layer(source, channel.name, channel.kind, thumbnails.of(channel).contrast)
        return RedirectResponse(viewer.link([shown]), 302)

    at, limit = "{project}/{channel}", service.body_limit
    return [
        Route("/", endpoint(page, plainly, limit), methods=["GET"]),
        Route(f"/thumbnail/{at}.png", endpoint(picture, plainly, limit), methods=["GET"]),
        Route(f"/view/{at}", endpoint(view, plainly, limit), methods=["GET"]),
    ]


def base_of(call: Call) -> str:
    """Return `http://host:port` as the client called it, which may be a name that the service does not know of itself."""
    host = call.headers.get("host", "")
    return f"http://{host if HOST.fullmatch(host) else '127.0.0.1'}"


def _viewed(known: list[Known]) -> str:
    """Return the address that the viewer is given: precomputed, which is what it likes best, or zarr."""
    for scheme in ("precomputed://", "zarr://"):
        for one in known:
            if one.text.startswith(scheme):
                return one.text
    raise NotFound("Neuroglancer has no source for this volume")


def _page(service: Service, base: str) -> str:
    projects = [(p, service.catalogue.channels(p.name)) for p in service.catalogue.projects()]
    count = sum(len(channels) for _, channels in projects)
    summary = joined(
        (
            element("p", f"{count} volume{'s' * (count != 1)} of {service.root}, at {base}"),
            element("p", WRITING[service.access.write], class_="soft"),
        )
    )
    shown = joined(_project(service, base, project, channels) for project, channels in projects if channels)
    nothing = element("p", "There is no volume here yet; put one into the folder, and load this page again.")
    return _template().substitute(title=f"ndbatch serve: {count} volumes", summary=summary, projects=shown or nothing)


def _project(service: Service, base: str, project: Project, channels: list[Channel]) -> Markup:
    within = f"in {project.dataset}" if project.dataset != project.name else ""
    cards = joined(_card(service, base, project, channel) for channel in channels)
    return element("section", element("h2", project.name, element("span", within)), cards)


def _card(service: Service, base: str, project: Project, channel: Channel) -> Markup:
    """Return what the page says of a channel."""
    path = f"{quote(project.name)}/{quote(channel.name)}"
    try:
        facts = _facts(service.volume(channel))
    except NdbatchError as error:
        facts = element("p", f"It cannot be opened: {error.message}", class_="problem")
    known = addresses(service, base, project, channel)
    badges = [element("span", channel.kind, class_="badge")]
    badges += [element("span", "read only", class_="badge")] if channel.read_only else []
    seen = viewer.files() and any("Neuroglancer" in one.taken_by for one in known)
    link = element("a", "Open in Neuroglancer", href=f"/view/{path}", class_="open") if seen else None
    lines = [_line(one.text, one.taken_by) for one in known]
    if known:
        lines.append(_line(f'ndbatch.open("{known[0].text}")', "in Python, a lazy volume"))
    text = joined((element("h3", channel.name, *badges), facts, link, *lines))
    picture = Markup(f'<img src="/thumbnail/{path}.png" alt="a slice through the middle" loading="lazy">')
    return element("article", picture, element("div", text))


def _facts(volume: Volume) -> Markup:
    extents = " × ".join(f"{n:,}" for n in volume.shape)
    size = (
        "unknown"
        if volume.voxel_size is None
        else " × ".join(f"{s:g}" for axis, s in zip(volume.axes, volume.voxel_size, strict=True) if axis in "zyx")
        + " µm"
    )
    rows = [
        (f"voxels, {' × '.join(volume.axes)}", extents),
        ("type", volume.dtype.name),
        ("voxel size, z × y × x", size),
        ("levels", str(volume.levels)),
        ("bytes", nbytes(volume.spec.nbytes)),
    ]
    if any(volume.offset):
        rows.insert(1, ("begins at", " × ".join(f"{n:,}" for n in volume.offset)))
    return element("dl", joined(element("div", element("dt", name), element("dd", value)) for name, value in rows))


def _line(text: str, words: str) -> Markup:
    button = element("button", "copy", type="button", data_text=text)
    return element("div", element("div", element("code", text), element("small", words)), button, class_="line")


@cache
def _template() -> Template:
    return Template(resources("ndbatch.server").joinpath("startpage.html").read_text())


@cache
def _policy() -> str:
    """Return what the page may load: its pictures, and the one script that stands in it, known by its digest."""
    found = re.search(r"<script>(.*?)</script>", _template().template, re.DOTALL)
    digest = hashlib.sha256(found.group(1).encode()).digest() if found else b""
    script = f"'sha256-{base64.b64encode(digest).decode()}'"
    return f"default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src {script}"

"""report.html: one self-contained file that tells what a run found, how it went and where its outputs are."""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from ndbatch.report.atomic import write_bytes
from ndbatch.report.course import course
from ndbatch.report.gallery import View, gallery, pairings
from ndbatch.report.markup import Content, Markup, element, image, joined, pairs, table
from ndbatch.report.objects import describe
from ndbatch.report.pictures import png
from ndbatch.report.provenance import masked_text
from ndbatch.report.summary import summary_of
from ndbatch.report.words import count, duration, label, named_facts, nbytes, value

if TYPE_CHECKING:
    from ndbatch.journal import Journal

REPORT = "report.html"
_STATUS = {
    "planned": "The run was planned and has not begun.",
    "running": "The run goes on; this page shows how far it was.",
    "done": "Every block is done.",
    "failed": "Some blocks failed, the others are done. ndbatch retry tries the failed ones again.",
    "interrupted": "The run was interrupted. The same command continues it.",
    "dead": "The process that ran it ended without a word. The same command continues the run.",
}


def write_report(directory: Path) -> Path:
    """Write report.html into the run directory and return its path; JournalError where no run was begun there.

    What cannot be shown (a picture of a volume that is gone, charts without matplotlib) is said in its place.
    """
    from ndbatch.journal import Journal

    with Journal.read(directory) as journal:
        page = render(journal)
    return write_bytes(directory / REPORT, page.encode())


def render(journal: Journal) -> str:
    """Return the report of the run of `journal` as HTML."""
    summary, document = summary_of(journal), journal.document
    findings = describe(summary, document, journal.directory)
    depths = next((found.depths for found in findings if found.depths), None)
    record = _read_json(journal.directory / "provenance.json")
    body = joined(
        (
            _header(summary, document, record),
            _warnings(summary),
            _failures(journal),
            _pictures(gallery(document, journal.directory, depths)) if document else None,
            joined(found.section for found in findings),
            course(journal, summary),
            _places(summary, document),
            _provenance(record, summary),
            _config(journal.directory),
            element("footer", _footer(record)),
        )
    )
    template = Template(files("ndbatch.report").joinpath("template.html").read_text(encoding="utf-8"))
    return template.substitute(title=joined((f"{summary['name']}: ndbatch report",)), body=body)


def _header(summary: dict[str, Any], document: dict[str, Any], record: dict[str, Any]) -> Markup:
    status = summary["status"]
    line = element(
        "div", element("h1", str(summary["name"])), element("span", status, class_=f"badge {status}"), class_="line"
    )
    started = (
        element("span", f"Started {record['started'][:16].replace('T', ' ')} UTC.", class_="keep") if record else None
    )
    sentence = element("p", _STATUS.get(status, ""), " ", started, class_="soft")
    return element("header", line, sentence, element("div", *_tiles(summary, document), class_="tiles"))


def _tiles(summary: dict[str, Any], document: dict[str, Any]) -> list[Markup]:
    """Return the numbers that a reader looks for first: objects, blocks, time."""
    counts = summary["counts"]
    told: list[tuple[str, str]] = []
    for name, output in summary["outputs"].items():
        if output["type"] == "table" and output.get("rows") is not None:
            told.append((f"{output['rows']:,}", label(name)))
    found = named_facts(*(stage["facts"] for stage in summary["stages"]))
    told += [(value(fact), name) for name, fact in found if type(fact) is int]
    told = told[:6]
    done = counts["done"] + counts["skipped"]
    told.append((f"{done:,}" if done == counts["planned"] else f"{done:,} / {counts['planned']:,}", "blocks done"))
    told += [(f"{counts['failed']:,}", "blocks failed")] if counts["failed"] else []
    told += [(f"{counts['orphaned']:,}", "blocks not tried")] if counts["orphaned"] else []
    told.append((duration(summary["seconds"]), "of work" + _sessions(summary)))
    if document:
        executor = document["executor"]
        told.append((str(executor["workers"]), _workers(executor)))
    return [element("div", element("b", number), element("span", words), class_="tile") for number, words in told]


def _workers(executor: dict[str, Any]) -> str:
    """Return what the number of workers counts."""
    kind, one = executor["kind"], executor["workers"] == 1
    if kind in ("threads", "processes"):
        return {"threads": "thread", "processes": "process"}[kind] if one else kind
    return f"{'worker' if one else 'workers'} ({kind})"


def _sessions(summary: dict[str, Any]) -> str:
    return f" in {summary['sessions']} sessions" if summary["sessions"] > 1 else ""


def _warnings(summary: dict[str, Any]) -> Markup:
    return joined(element("p", warning, class_="warning") for warning in summary["warnings"])


def _pictures(views: list[View]) -> Markup:
    parts: list[Content] = [element("h2", "Pictures")] if views else []
    for view in views:
        parts.append(element("h3", label(view.title)))
        if view.problem:
            parts.append(element("p", view.problem, class_="problem"))
        shown = [image(base64.b64encode(png(picture.rgb)).decode(), picture.words) for picture in view.pictures]
        parts.append(element("div", *shown, class_="pictures") if shown else None)
    return joined(parts)


def _failures(journal: Journal) -> Markup:
    """Return the failed blocks with their errors, tracebacks folded; the first hundred."""
    failures = journal.failures()
    if not failures:
        return Markup()
    parts: list[Content] = [element("h2", f"Failed blocks ({len(failures):,})")]
    for failure in failures[:100]:
        tries = f", tried {count(failure.attempts, 'time')}" if failure.attempts else ""
        head = f"Block {failure.block} ({failure.box}){tries}: {failure.kind}"
        fold = element("details", element("summary", "traceback"), element("pre", failure.traceback))
        parts.append(
            element("div", element("b", head), element("p", masked_text(failure.error)), fold if failure.traceback else None,
                    class_="problem")
        )  # fmt: skip
    if len(failures) > 100:
        parts.append(element("p", f"and {len(failures) - 100:,} more, which are in the journal", class_="soft"))
    return joined(parts)


def _places(summary: dict[str, Any], document: dict[str, Any]) -> Markup:
    """Return inputs and outputs with their addresses, and how to look at them."""
    rows: list[list[Content]] = []
    for role in ("inputs", "outputs"):
        for name, entry in document.get(role, {}).items():
            size = " x ".join(str(n) for n in entry.get("shape") or [])
            kind = entry.get("kind") or "table"
            rows.append(
                [role[:-1], name, kind, size, entry.get("dtype") or "", element("code", masked_text(entry["url"]))]
            )
            if "objects" in entry:
                where = element("code", masked_text(entry["objects"]))
                rows.append([role[:-1], name, f"{entry['object_type']} objects", "", "", where])
    how = []
    for _, below, over in pairings(document):
        how.append(f'ndbatch show "{below["url"]}"' + (f' --labels "{over["url"]}"' if over is not None else ""))
    for output in summary["outputs"].values():
        if output["type"] == "table":
            reader = "read_csv" if output["url"].endswith(".csv") else "read_parquet"
            how.append(f"python -c \"import pandas; print(pandas.{reader}('{output['url']}'))\"")
    look = joined((element("p", "How to look at them:"), element("pre", masked_text("\n".join(how))))) if how else None
    head = ("", "name", "kind", "size (" + " ".join(document.get("axes", "")) + ")", "type", "address")
    return joined((element("h2", "Inputs and outputs"), table(head, rows), look))


def _provenance(record: dict[str, Any], summary: dict[str, Any]) -> Markup:
    """Return who ran what, when, with which versions."""
    entries: list[tuple[str, Content]] = [("fingerprint", element("code", str(summary["fingerprint"])))]
    for key in ("command", "started", "user", "host", "platform", "cpus", "memory_bytes", "python", "ndbatch"):
        if record.get(key) is not None:
            entries.append((label(key.removesuffix("_bytes")), _told(key, record[key])))
    libraries = record.get("libraries") or {}
    if libraries:
        entries.append(("libraries", ", ".join(f"{name} {version}" for name, version in libraries.items())))
    return joined((element("h2", "Provenance"), pairs(entries)))


def _told(key: str, entry: Any) -> Content:
    if key == "memory_bytes":
        return nbytes(entry)
    if key == "command":
        return element("code", " ".join(entry))
    return str(entry)


def _config(directory: Path) -> Markup:
    try:
        text = (directory / "config.yaml").read_text(encoding="utf-8")
    except OSError:
        return Markup()
    fold = element(
        "details", element("summary", "config.yaml, all defaults filled in"), element("pre", masked_text(text))
    )
    return joined((element("h2", "Configuration"), fold))


def _footer(record: dict[str, Any]) -> str:
    return f"Written by ndbatch {record.get('ndbatch') or ''}".strip() + ". This page holds everything it shows."


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

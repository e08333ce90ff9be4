"""The proof of a finished run beside its journal: what its receipts come to, so that outputs can stand in for lost ones.

A stage's proof is the number of its blocks and the sum of one mixed number for each block and its checksum. Blocks read again
give the same sum only if all of them are as they were written, so receipts are proven together or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ndbatch.errors import NdbatchError
from ndbatch.journal import CHECKSUM_BITS, RECEIPT, Entry, Journal
from ndbatch.journal.schema import seal
from ndbatch.plan.model import entry_address
from ndbatch.ranges import Ranges
from ndbatch.remotes.base import Array
from ndbatch.remotes.registry import open_volume
from ndbatch.report.atomic import write_text
from ndbatch.verify.compare import boxes_of, checksum_of, places

FILE = "proof.json"
AT_ONCE = 4096
"""Receipts that are recorded together."""
_MASK = np.uint64(2**CHECKSUM_BITS - 1)


def write_proof(journal: Journal, directory: Path) -> None:
    """Write the proof of a run whose blocks are all done. Stages with rows or payloads have none: no output holds these."""
    stages = {}
    for stage in journal.document["stages"]:
        if not any(payloads for _, _, payloads, _ in journal.sealed_batches(stage["index"])):
            stages[str(stage["index"])] = sum(map(_mixed, journal.batches(stage["index"]))) % 2**64
    keys = [f"written:{name}" for name in journal.document.get("staging", {}) if journal.get(f"written:{name}")]
    facts = {str(stage): found for stage, found in journal.facts().items() if str(stage) in stages}
    body = {
        "fingerprint": journal.document["fingerprint"],
        "stages": stages,
        "written": keys,
        "facts": facts,
        "provenance": journal.get("provenance"),
    }
    write_text(directory / FILE, json.dumps({**body, "seal": seal(json.dumps(body))}))


def restore_receipts(journal: Journal, directory: Path) -> int:
    """Record the receipts that are lacking and that the outputs prove; return how many."""
    body, total = _proof(journal, directory), 0
    if body is None:
        return 0
    for key in body["written"]:
        if journal.get(key) is None and not (directory / "staging").exists():
            journal.set(key, "yes")
    if body["provenance"] and journal.get("provenance") is None:
        journal.set("provenance", body["provenance"])
    for stage in journal.document["stages"]:
        lacking = Ranges.upto(stage["blocks"]).minus(journal.done(stage["index"]))
        if str(stage["index"]) in body["stages"] and lacking:
            total += _restore(journal, directory, stage, lacking, body)
    if all(len(journal.done(stage["index"])) == stage["blocks"] for stage in journal.document["stages"]):
        journal.set("complete", "yes")
    return total


def _proof(journal: Journal, directory: Path) -> dict[str, Any] | None:
    """Return the proof of this run; None where there is none, or one that is not as it was written."""
    try:
        body = dict(json.loads((directory / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    sound = body.pop("seal", None) == seal(json.dumps(body))
    return body if sound and body["fingerprint"] == journal.document.get("fingerprint") else None


def _restore(
    journal: Journal, directory: Path, stage: Mapping[str, Any], lacking: Ranges, body: Mapping[str, Any]
) -> int:
    entries = places(journal, journal.document, stage, directory)
    if not entries:
        return 0
    found = np.zeros(len(lacking), RECEIPT)
    found["block"], found["attempt"] = np.fromiter(lacking, np.uint64), 1
    try:
        volumes = [open_volume(entry_address(entry, directory)) for entry in entries.values()]
        found["checksum"] = [checksum_of(volumes, boxes_of(stage, block, entries)) for block in lacking]
    except NdbatchError:
        return 0
    known = sum(map(_mixed, journal.batches(stage["index"])))
    if (known + _mixed(found)) % 2**64 != body["stages"][str(stage["index"])]:
        return 0
    for first in range(0, len(found), AT_ONCE):
        journal.record(Entry(stage["index"], found[first : first + AT_ONCE]))
    if str(stage["index"]) in body["facts"]:
        journal.set_facts(stage["index"], body["facts"][str(stage["index"])])
    return len(found)


def _mixed(receipts: Array) -> int:
    """Return the sum, modulo 2^64, of one well mixed number for each block and its checksum (the finaliser of splitmix64)."""
    x = (receipts["block"].astype(np.uint64) << np.uint64(32)) ^ (receipts["checksum"] & _MASK)
    x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((x ^ (x >> np.uint64(31))).sum(dtype=np.uint64))

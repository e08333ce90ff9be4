"""Commands of the documents, run as they stand there: `$ ndbatch ...`, and below it, indented, words that it must say."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from ndbatch.cli.app import main


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a console block with what it must say."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:].strip(), []))
        elif line.strip():
            found[-1][1].append(line.strip())
    yield from found


def run(command: str, expected: list[str], capsys: pytest.CaptureFixture[str], where: str) -> None:
    """Run one `ndbatch` command in this process; every expected text must be in what it says, in any order.

    Exit codes 1 to 3 must be announced: `$ ndbatch plan job.yaml   # exit code 2`.
    """
    words = shlex.split(command, comments=True)
    assert words[0] == "ndbatch", f"{where}: only ndbatch is run"
    code = int(command.partition("# exit code ")[2] or 0)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(words[1:])
    said = "".join(capsys.readouterr())
    plain = " ".join(said.split())
    assert ended.value.code == code, f"{where}: {command} ended with {ended.value.code}: {said}"
    for text in expected:
        for part in text.split("..."):
            assert " ".join(part.split()) in plain, f"{where}: {command}: no {part.strip()!r} in: {said}"

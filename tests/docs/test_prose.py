"""The pages of prose, run from top to bottom in an empty folder: files are written, commands run, Python executed.

A fenced block does what its language says. `yaml` with `steps` becomes the job.yaml that the commands after it use, or
the file that its title names (`title="other.yaml"`); other `yaml` is a part and must be YAML. `console` is run. `python`
with a title is a file, without one it is executed. `toml` is a package that is then installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ndbatch.remotes.registry import schemes
from ndbatch.steps.registry import step_names
from tests.docs import console
from tests.docs.conftest import DOCS, ROOT, blocks

PAGES = ["index.md", "concepts.md", "python.md", "extending.md", "faq.md", "ramon.md"]
INLINE = "\ncluster: {kind: inline}\n"
"""Examples are small: computed in this process they end sooner than workers start."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty folder with the example data in it, the current one, from which Python imports."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "data").symlink_to(ROOT / "examples" / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]
    _forget_what_is_installed()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_does_what_it_says(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "__page__"}
    for line, language, title, text in blocks(DOCS / name):
        where, file = f"docs/{name}:{line}", _file(title)
        if language == "yaml":
            _keep(text, file, folder)
        elif language == "console":
            for command, expected in console.commands(text):
                console.run(command, expected, capsys, where)
        elif language == "toml":
            _install(tomllib.loads(text)["project"], folder)
        elif language == "python" and file:
            (folder / file).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, where, "exec"), names)
    _run_tests(folder)


def _keep(text: str, file: str, folder: Path) -> None:
    """Write a whole configuration where commands find it."""
    document = yaml.safe_load(text)
    if isinstance(document, dict) and "steps" in document:
        (folder / (file or "job.yaml")).write_text(text + ("" if "cluster" in document else INLINE), encoding="utf-8")


def _file(title: str) -> str:
    found = re.search(r'title="([^"]+)"', title)
    return found[1] if found else ""


def _install(project: dict[str, Any], folder: Path) -> None:
    """Leave what pip leaves of a project in the folder: its metadata and entry points."""
    about = folder / f"{project['name']}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    sections = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in points.items())
        for group, points in project["entry-points"].items()
    ]
    (about / "entry_points.txt").write_text("\n".join(sections))
    _forget_what_is_installed()


def _forget_what_is_installed() -> None:
    schemes.cache_clear()
    step_names.cache_clear()


def _run_tests(folder: Path) -> None:
    """Run the tests that a page shows, in a process of their own."""
    tests = sorted(map(str, folder.glob("test_*.py")))
    if tests:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

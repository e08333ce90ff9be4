"""The house rules, read from the code itself: layers, sizes, names, types, documents."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ndbatch"
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "geometry", "units", "events", "importing", "casting", "portable"),
    ("remotes", "tables", "config", "steps", "ranges", "ramon"),
    ("plan", "journal"),
    ("engine", "worker", "executors", "states"),
    ("drive", "prepare", "finish", "runner", "report", "verify", "trial", "mapping", "copying", "downsampling"),
    ("server", "ingest"),
    ("cli", "testing", "__main__"),
)
"""Each layer may import from those before it and from itself."""

FORBIDDEN = {
    "remotes": {"steps", "config"},
    "steps": {"config"},
    "engine": {"worker", "executors"},
}
"""Inside the layers: who never knows whom."""

BANNED_NAMES = {"utils", "util", "helpers", "helper", "manager", "common", "misc", "core", "base_utils"}


def part(path: Path) -> str:
    """Return the room of the house that a module is in: `plan`, `engine` ..."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer(room: str) -> int:
    return next(i for i, rooms in enumerate(LAYERS) if room in rooms)


def imported(path: Path) -> set[str]:
    """Return the rooms that a module imports, wherever in it."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ndbatch"):
            names = node.module.split(".")[1:2] or [alias.name for alias in node.names]
            rooms.update(names)
        elif isinstance(node, ast.Import):
            rooms.update(a.name.split(".")[1] for a in node.names if a.name.startswith("ndbatch."))
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", [m for m in MODULES if m.parent != PACKAGE or m.name != "__init__.py"], ids=str)
def test_imports_point_down(path: Path) -> None:
    room = part(path)
    for other in imported(path):
        assert layer(other) <= layer(room), f"{path.name} ({room}) imports {other}, which is in a later layer"
        assert other not in FORBIDDEN.get(room, set()), f"{path.name} ({room}) must not know {other}"


def test_no_module_imports_itself_in_a_circle() -> None:
    """Imports when a module is loaded; those inside functions are what keeps the start quick."""
    names = {
        ".".join(("ndbatch", *p.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): p
        for p in MODULES
    }
    needs: dict[str, set[str]] = {}
    for name, path in names.items():
        found = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ImportFrom) and n.module]
        needs[name] = {
            whole if (whole := f"{n.module}.{alias.name}") in names else str(n.module)
            for n in found
            for alias in n.names
            if str(n.module) in names
        }
    done: set[str] = set()
    while ready := {name for name, wanted in needs.items() if name not in done and wanted <= done}:
        done |= ready
    assert done == set(names), f"in a circle: {sorted(set(names) - done)}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_sizes(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400, f"{path} has more than 400 lines: split it by noun"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 50, f"{path}:{node.lineno} {node.name} has {length} lines"


def test_most_functions_are_short() -> None:
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert lengths[int(0.95 * len(lengths))] <= 35


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_names(path: Path) -> None:
    assert path.stem not in BANNED_NAMES
    assert path.parent.name not in BANNED_NAMES


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_public_names_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} says nothing of itself"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"dask", "distributed", "tensorstore", "pandas", "pyarrow", "h5py", "matplotlib", "scipy", "skimage", "zarr"}


def test_importing_ndbatch_loads_nothing_heavy() -> None:
    assert not modules_after("import ndbatch") & (HEAVY | {"pydantic", "yaml", "typer", "rich"})


def test_public_names_are_what_is_exported() -> None:
    import ndbatch

    assert list(ndbatch.__all__) == sorted(ndbatch.__all__)
    assert all(getattr(ndbatch, name) is not None for name in ndbatch.__all__)
    visible = {name for name in dir(ndbatch) if not name.startswith("_")}
    assert visible - set(ndbatch.__all__) <= {p.stem for p in PACKAGE.iterdir()} | {"annotations"}


def test_errors_pickle_with_their_fields() -> None:
    import pickle

    from ndbatch import errors

    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.NdbatchError):
            again = pickle.loads(pickle.dumps(kind("what, where, what next", path="x", number=3)))
            assert (type(again), str(again), again.fields) == (
                kind,
                "what, where, what next",
                {"path": "x", "number": 3},
            )
            assert not issubclass(kind, ValueError)

"""Users' functions by their text, `package.module:function` or `script.py:function`: imported once a process."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ndbatch.errors import ConfigError
from ndbatch.importing import without_acting


def text_of(function: Callable[..., Any]) -> str:
    """Return `module:name` of a function object, or `script.py:name` where its module is the running script."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if "<" in name or not name:
        raise ConfigError(
            f"{name or function!r} has no name that workers can import; define it with def at the top of a module or script"
        )
    if module != "__main__":
        return f"{module}:{name}"
    path = getattr(sys.modules["__main__"], "__file__", None)
    if path is None or not Path(path).exists():
        raise ConfigError(f"{name} was typed in at a prompt, where workers cannot import it; put it in a file")
    return f"{Path(path).resolve()}:{name}"


@lru_cache(maxsize=256)
def load_function(text: str) -> Callable[..., Any]:
    """Import the function that `text` names, once a process. ConfigError with the nearest name where it is not there."""
    place, _, name = text.rpartition(":")
    if not place or not name:
        raise ConfigError(f"{text!r} is not a function; write package.module:function")
    found: Any = _module(place)
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, [n for n in dir(found) if not n.startswith("_")], n=1)
            ended = _ENDED.get(getattr(found, "__name__", ""))
            if ended:
                raise ConfigError(
                    f"{place} has no function {part!r} above the line where it {ended}, and workers do not do that again; "
                    "put what the script does under: if __name__ == '__main__':"
                )
            raise ConfigError(f"{place} has no function {part!r}" + (f"; did you mean {near[0]}?" if near else ""))
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"{text} is a {type(found).__name__}, not a function")
    function: Callable[..., Any] = found
    return function


def search_in(folder: str) -> None:
    """Let users' modules be found in `folder`, and no more in the folder of an earlier run of this process.

    Two runs may have a module of one name each beside their configuration; the earlier one's is forgotten.
    """
    _BESIDE[:] = [folder]
    if [folder] == _FOLDERS:
        return
    for old in _FOLDERS:
        if old in sys.path:
            sys.path.remove(old)
    for name in _FOUND:
        sys.modules.pop(name, None)
    _FOUND.clear()
    _FOLDERS[:] = []
    if folder not in sys.path:
        sys.path.append(folder)
        _FOLDERS.append(folder)
    importlib.invalidate_caches()
    load_function.cache_clear()


_FOLDERS: list[str] = []
"""The folder that `search_in` added to sys.path, if any."""
_BESIDE: list[str] = []
"""The folder of the configuration, whether or not it was in sys.path before."""
_FOUND: set[str] = set()
"""Modules that were imported from it."""


def beside(text: str) -> Path | None:
    """Return the file or folder that `text` is the path of, from the configuration's folder or else the current one; None where
    there is none."""
    if not text or len(text) > 4096 or "\0" in text:
        return None
    places = (Path(folder, text) for folder in (*_BESIDE, "."))
    return next((place.absolute() for place in places if place.exists()), None)


def _imported(place: str) -> ModuleType:
    """Import a module, and remember it and what it imported in turn from beside the configuration."""
    before = set(sys.modules)
    module = importlib.import_module(place)
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and any(Path(file).is_relative_to(folder) for folder in _FOLDERS):
            _FOUND.add(name)
    return module


def load_changed(text: str) -> Callable[..., Any]:
    """Import the function, again where its file has changed since: a notebook edits a function and runs it once more."""
    function = load_function(text)
    module = sys.modules.get(getattr(function, "__module__", ""))
    file = getattr(module, "__file__", None)
    if module is None or file is None or not Path(file).exists():
        return function
    seen = _SEEN.setdefault(file, _hash_of(file))
    if seen != _hash_of(file):
        _SEEN[file] = _hash_of(file)
        load_function.cache_clear()
        if module.__name__ == "__main__":
            raise ConfigError(f"{file} has changed since it was started; start it again")
        if module.__name__.startswith(_SCRIPT):
            del sys.modules[module.__name__]
        else:
            with _no_bytecode():
                importlib.reload(module)
        return load_function(text)
    return function


_SEEN: dict[str, str] = {}
"""Source files of functions and the hash they had when they were imported."""
_SCRIPT = "ndbatch_script_"
_ENDED: dict[str, str] = {}
"""Scripts without a main guard, by the name of their module, and what their import ended at."""


def _hash_of(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


def _module(place: str) -> ModuleType:
    try:
        with _no_bytecode():
            return _script(Path(place)) if place.endswith(".py") else _imported(place)
    except ModuleNotFoundError as error:
        raise _not_found(place, str(error.name)) from error
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{place} does not import: {type(error).__name__}: {error}") from error


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Write no .pyc files: Python takes one for valid when the source has kept its size and its second of change, so that a
    function edited at once would run as it was."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _not_found(place: str, missing: str) -> ConfigError:
    """Return the error for a module that is not there: the user's own, or one that it imports."""
    if not f"{place}.".startswith(f"{missing}."):
        return ConfigError(f"{place} needs the module {missing}, which is not installed here")
    top = place.partition(".")[0]
    near = difflib.get_close_matches(top, [p.stem for folder in _FOLDERS for p in Path(folder).glob("*.py")], n=1)
    hint = f"did you mean {near[0]}? Otherwise " if near else ""
    return ConfigError(
        f"the module {missing} cannot be found (for the function in {place}); {hint}install it, or put {top}.py beside the "
        "configuration file"
    )


def _script(path: Path) -> ModuleType:
    """Import a file that is no module on the path, under a name of its own, so that its main guard does not run.

    The script that is running is imported already; without a main guard, others are imported up to where they act.
    """
    if not path.exists():
        raise ConfigError(f"{path} does not exist")
    running = sys.modules["__main__"]
    file = getattr(running, "__file__", None)
    if file is not None and Path(file).exists() and path.samefile(file):
        return running
    name = f"{_SCRIPT}{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with without_acting() as ended:
        spec.loader.exec_module(module)
    _ENDED[name] = "".join(ended)
    return module


def source_hash(text: str) -> str:
    """Return a hash of the whole source file that the function is in: what it calls there counts too."""
    function = load_function(text)
    place = text.rpartition(":")[0]
    if place.endswith(".py"):
        return _hash_of(place)
    try:
        file = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:
        file = None
    if file is None or not Path(file).exists():
        return f"no source: {getattr(function, '__module__', '')} {getattr(function, '__qualname__', '')}"
    return _hash_of(file)

"""From a file or a mapping to a checked `Config`, and back to a file with every default filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ndbatch.config.model import Config
from ndbatch.config.overrides import apply, parse_override
from ndbatch.config.sentences import Problem, keys_of, problems_of, shown
from ndbatch.config.source import Key, Source, read
from ndbatch.config.stepform import ONE_NAME, build, form_of, split
from ndbatch.errors import ConfigError, NdbatchError
from ndbatch.steps.base import Step
from ndbatch.steps.function.loading import search_in
from ndbatch.steps.registry import step_class


@dataclass(frozen=True)
class _Written:
    """Where keys were written: in a file, on the command line, or in a program."""

    name: str
    source: Source | None = None
    set_by: Mapping[tuple[Key, ...], str] = field(default_factory=dict)

    def place(self, path: Sequence[Key]) -> str:
        """Return `file:line`, `--set a.b=c` or nothing."""
        for length in range(len(path), 0, -1):
            if tuple(path[:length]) in self.set_by:
                return f"--set {self.set_by[tuple(path[:length])]}"
        return self.source.place(path) if self.source else ""

    def line(self, problem: Problem) -> int:
        """Return the line of a problem, to sort by."""
        return (self.source.line(problem.path) if self.source else None) or 0


def load(path: Path | str, overrides: Sequence[str] = (), base: Path | None = None) -> Config:
    """Return the configuration in the YAML file at `path`, with `overrides` (`a.b=c`) applied.

    Relative paths in it are taken from the folder `base`, its own if not given. Raises one ConfigError that names every
    mistake with its line.
    """
    source = read(path)
    data, set_by = apply(source.data, [parse_override(text) for text in overrides])
    file = Path(path).expanduser().resolve()
    extra = {"base": base or file.parent, "origin": file, "overrides": tuple(overrides)}
    return _validate(data, extra, _Written(str(path), source, set_by))


def from_mapping(values: Mapping[str, Any], base: Path | str | None = None) -> Config:
    """Return the configuration in `values`, a mapping as YAML gives it; items of `steps` may be Step objects.

    Relative paths are taken from `base`, the current folder if not given. Raises one ConfigError that names every mistake.
    """
    extra = {"base": (Path(base) if base is not None else Path.cwd()).expanduser().resolve()}
    return _validate(dict(values), extra, _Written("the configuration"))


def dump(config: Config) -> str:
    """Return `config` as YAML with every default filled in, keys in the order of the model.

    Secrets stay references. The text loads, in a file in `config.base`, to the same Config. Changes made by `--set` are named
    in a comment.
    """
    import yaml

    from ndbatch.config.dialect import Dumper

    document = config.model_dump(mode="json", exclude={"steps"})
    ordered = {key: document.get(key) for key in keys_of(Config)}
    ordered["steps"] = [form_of(step) for step in config.steps]
    lines = [f"# from {config.origin}"] if config.origin else []
    lines += [f"# --set {text!r}" for text in config.overrides]
    body = yaml.dump(ordered, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)
    return "".join(line + "\n" for line in lines) + body


def _validate(data: dict[Any, Any], extra: Mapping[str, Any], written: _Written) -> Config:
    """Return the Config in `data`; ConfigError with every problem otherwise."""
    data = {**data}
    problems = _reserved(data)
    steps, wrong = _steps(data.get("steps"), Path(extra["base"]))
    problems += wrong
    if isinstance(data.get("steps"), list):
        data["steps"] = steps
    try:
        config = Config.model_validate({**data, **extra})
    except ValidationError as error:
        found = problems_of(error, Config, data)
        problems += [p for p in found if not (wrong and (p.rooted or p.path[:1] == ("steps",)))]
    if not problems:
        return config
    problems.sort(key=written.line)
    lines = [": ".join(part for part in (written.place(p.path), p.text()) if part) for p in problems]
    raise ConfigError("\n".join(dict.fromkeys(lines)), file=written.name, problems=len(problems))


def _reserved(data: dict[Any, Any]) -> list[Problem]:
    """Take out of `data` the keys that only ndbatch sets, and return a problem for each."""
    hidden = [key for key in data if key in Config.model_fields and key not in keys_of(Config)]
    for key in hidden:
        del data[key]
    return [Problem((key,), f"unknown key; known keys: {', '.join(sorted(keys_of(Config)))}") for key in hidden]


def _steps(forms: Any, base: Path) -> tuple[list[Any], list[Problem]]:
    """Return the steps that could be built from their forms, and the problems of the others."""
    built: list[Any] = []
    problems: list[Problem] = []
    for number, form in enumerate(forms if isinstance(forms, (list, tuple)) else ()):
        if isinstance(form, Step):
            built.append(form)
            continue
        if not isinstance(form, Mapping):
            problems.append(Problem(("steps", number), f"{ONE_NAME}, not {shown(form)}"))
            continue
        try:
            if any(":" in str(kind) for kind in form):
                search_in(str(base))  # users keep their functions beside the configuration
            built.append(_step(form, ("steps", number), problems, base))
        except NdbatchError as error:
            problems.append(Problem(("steps", number, *[str(kind) for kind in form][:1]), error.message))
    return [step for step in built if step is not None], problems


def _step(form: Mapping[Any, Any], path: tuple[Key, ...], problems: list[Problem], base: Path) -> Step | None:
    """Return the step in `form`, or None where its parameters are wrong, which `problems` then tells."""
    kind, fields = split(form)
    chosen = step_class(kind)
    script, _, name = kind.rpartition(":")
    known_as = f"{base / script}:{name}" if script.endswith(".py") else kind
    try:
        return build(chosen, known_as, fields)
    except ValidationError as error:
        problems += [problem.within((*path, kind)) for problem in problems_of(error, chosen, dict(fields))]
    return None

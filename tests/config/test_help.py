"""What is written from the model: schema, templates, and the tables of the documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ndbatch.config.load import load
from ndbatch.config.model import Config
from ndbatch.config.reference import filled
from ndbatch.config.schema import OWN_FUNCTION, json_schema
from ndbatch.config.sentences import keys_of
from ndbatch.config.template import template
from ndbatch.steps.registry import step_class, step_names

DOCUMENT = Path(__file__).parents[2] / "docs/configuration.md"
KINDS = sorted(step_names())


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json_schema()


def test_schema_describes_every_key(schema: dict[str, Any]) -> None:
    assert json.loads(json.dumps(schema)) == schema
    assert list(schema["properties"]) == keys_of(Config)
    assert schema["required"] == ["inputs", "steps", "outputs"]
    for key, entry in schema["properties"].items():
        described = schema["$defs"][entry["$ref"].rpartition("/")[2]] if "$ref" in entry else entry
        assert described.get("description"), f"{key} has no docstring"
    text = json.dumps(schema)
    for name in set(re.findall(r'"#/\$defs/([^"]+)"', text)):
        assert name in schema["$defs"], f"{name} is referred to but not defined"


@pytest.mark.parametrize("kind", KINDS)
def test_schema_has_every_step_in_its_one_key_form(kind: str, schema: dict[str, Any]) -> None:
    forms = schema["properties"]["steps"]["items"]["anyOf"]
    (form,) = [form for form in forms if kind in form.get("properties", {})]
    assert form["required"] == [kind]
    assert form["additionalProperties"] is False
    parameters = schema["$defs"][f"step-{kind}"]
    assert list(parameters["properties"]) == list(step_class(kind).model_fields)
    for name, entry in parameters["properties"].items():
        assert entry.get("description"), f"{kind}.{name} has no docstring"


def test_schema_takes_a_function_of_the_users_own(schema: dict[str, Any]) -> None:
    (form,) = [f for f in schema["properties"]["steps"]["items"]["anyOf"] if "patternProperties" in f]
    assert list(form["patternProperties"]) == [OWN_FUNCTION]
    assert re.match(OWN_FUNCTION, "my_package.my_module:my_function")
    assert re.match(OWN_FUNCTION, "scripts/mine.py:my_function")
    assert not re.match(OWN_FUNCTION, "copy")
    assert "function" not in schema["$defs"]["step-function"]["properties"]


def test_schema_takes_a_bare_address(schema: dict[str, Any]) -> None:
    for section in ("inputs", "outputs"):
        (entry,) = schema["properties"][section]["patternProperties"].values()
        assert entry["anyOf"][0]["type"] == "string"


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_loads_and_tells_everything(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(template(kind))
    config = load(path)
    chosen = step_class(kind)
    assert isinstance(config.steps[0], chosen)
    ((written, parameters),) = yaml.safe_load(template(kind))["steps"][0].items()
    assert written == kind
    assert list(parameters) == list(chosen.model_fields)
    words = " ".join(template(kind).replace("#", "").split())
    for name, field in chosen.model_fields.items():
        assert " ".join((field.description or "?").split()) in words, f"{kind}.{name} is not explained"
        if name != "output" and not field.is_required() and not field.examples:
            assert getattr(config.steps[0], name) == field.get_default(call_default_factory=True)
    for key in ("region", "blocks", "time_limit", "cluster", "retry"):
        assert f"\n# {key}:" in template(kind)


def test_a_template_for_a_function_that_is_not_written_yet(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(template("my_module:my_function"))
    (step,) = load(path).steps
    assert step.model_dump()["function"] == "my_module:my_function"
    assert (step.sources, step.products) == ({"input": "image"}, {"output": "result"})


def test_what_a_template_leaves_as_comments_loads_too(tmp_path: Path) -> None:
    head, _, rest = template("copy").partition("# What follows may be left out")
    lines = [line.removeprefix("# ").removeprefix("#") for line in rest.splitlines()[1:]]
    settings = [line for line in lines if re.match(r"^(  )?[a-z_]+:( |$)", line)]
    path = tmp_path / "job.yaml"
    path.write_text(head + "\n".join(settings) + "\n")
    (tmp_path / "plain.yaml").write_text(head)
    everything, plain = load(path), load(tmp_path / "plain.yaml")
    assert len(settings) >= 12
    assert everything.model_copy(update={"origin": plain.origin}) == plain


def test_the_documentation_says_what_the_model_says() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert filled(text) == text, "write the tables anew: python -m ndbatch.config.reference docs/configuration.md"
    assert text.count("<!-- end -->") == 7


def test_the_example_of_the_documentation_loads(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "job.yaml"
    path.write_text(example)
    changes = re.search(r"ndbatch run job.yaml (.*)", DOCUMENT.read_text(encoding="utf-8"))
    assert changes is not None
    import shlex

    overrides = [word for word in shlex.split(changes[1]) if word != "--set"]
    assert load(path, overrides).cluster.workers == 4

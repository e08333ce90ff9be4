"""What code writes into the guide: steps without a page, verbs, public names."""

from __future__ import annotations

from types import ModuleType

import pytest

import ndbatch as nb
from ndbatch.cli.reference import verbs
from ndbatch.config.reference import filled
from tests.docs.conftest import DOCS, loaded


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    return loaded(DOCS / "pages.py")


def test_verbs_are_those_of_the_program() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert filled(text, verbs) == text, "write the verbs anew: python -m ndbatch.cli.reference docs/cli.md"


def test_every_verb_and_option_is_told() -> None:
    said = verbs()
    for word in ("### ndbatch run", "### ndbatch copy", "`--set KEY=VALUE`", "`--along <z\\|y\\|x>`", "--fresh"):
        assert word in said


def test_other_markers_are_no_verbs() -> None:
    with pytest.raises(KeyError):
        filled("<!-- nothing -->\n<!-- end -->", verbs)


def test_a_step_without_a_page_gets_one(pages: ModuleType) -> None:
    made = pages.on_page_markdown(pages.bare_page("threshold"))
    assert made.startswith("# threshold\n\nMake a mask")
    assert "| `percentile` |" in made


def test_all_steps_are_listed(pages: ModuleType) -> None:
    listed = pages.step_list()
    for kind in pages.steps():
        assert f"[`{kind}`]({kind}.md)" in listed


def test_all_public_names_are_documented(pages: ModuleType) -> None:
    told = pages.exports()
    for name in nb.__all__:
        assert name.startswith("_") or f".{name}\n" in told

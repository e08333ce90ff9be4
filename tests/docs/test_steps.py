"""The pages of steps: each step has one, its examples end done, its picture is there."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from ndbatch.steps.registry import BUILT_IN
from tests.docs.conftest import DOCS

PAGES = sorted(page.stem for page in (DOCS / "steps").glob("*.md") if page.stem != "index")


def test_every_step_has_a_page_and_a_picture() -> None:
    without = sorted(set(BUILT_IN) - set(PAGES))
    assert not without, f"write docs/steps/NAME.md for {', '.join(without)}, as the others are"
    bare = [kind for kind in BUILT_IN if not (DOCS / "images" / "steps" / f"{kind}.png").exists()]
    assert not bare, f"make pictures: python docs/pictures.py {' '.join(bare)}"


def test_every_page_is_that_of_a_step() -> None:
    assert not set(PAGES) - set(BUILT_IN)
    assert {p.stem for p in (DOCS / "images" / "steps").glob("*.png")} <= set(BUILT_IN)


@pytest.mark.parametrize("kind", PAGES)
def test_examples_end_done(kind: str, tmp_path: Path, pictures: ModuleType) -> None:
    page = pictures.read(kind)
    assert any(kind in step for step in page.examples[0]["steps"]), f"the first example does not show {kind}"
    for number, example in enumerate(page.examples):
        result = pictures.run(example, tmp_path / str(number))
        assert result.status == "done"
        assert set(result.outputs) == set(example["outputs"])


@pytest.mark.parametrize("kind", PAGES)
def test_pictures_are_small_and_show_something(kind: str) -> None:
    path = DOCS / "images" / "steps" / f"{kind}.png"
    assert path.stat().st_size < 60_000
    with Image.open(path) as picture:
        assert picture.width <= 1200
        low, high = picture.convert("L").getextrema()
        assert isinstance(low, int)
        assert high - low > 100


@pytest.mark.parametrize("kind", PAGES)
def test_pages_show_their_picture_and_keys(kind: str) -> None:
    text = (DOCS / "steps" / f"{kind}.md").read_text(encoding="utf-8")
    assert f"![{kind}](../images/steps/{kind}.png)" in text
    assert f"<!-- step {kind} -->" in text

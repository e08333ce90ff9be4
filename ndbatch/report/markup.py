"""HTML elements from values: text is always escaped, only what is already markup passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | Markup | int | float | None


def element(name: str, *content: Content, **attributes: str) -> Markup:
    """Return `<name attributes>content</name>`; content that is not Markup is escaped, None is left out.

    An attribute `class_` is written `class`; underscores within a name become hyphens.
    """
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(text)}"' for key, text in attributes.items())
    return Markup(f"<{name}{given}>{joined(content)}</{name}>")


def joined(content: Iterable[Content]) -> Markup:
    """Return the parts one after another, escaped where they are not Markup."""
    return Markup(
        "".join(part if isinstance(part, Markup) else escape(str(part)) for part in content if part is not None)
    )


def table(
    head: Sequence[str], rows: Iterable[Sequence[Content]], numeric: Sequence[int] = (), class_: str = ""
) -> Markup:
    """Return a table that scrolls sideways where it is too wide; columns in `numeric` are set to the right."""

    def cells(kind: str, row: Sequence[Content]) -> Markup:
        return joined(
            element(kind, part, **({"class_": "number"} if i in numeric else {})) for i, part in enumerate(row)
        )

    body = joined(element("tr", cells("td", row)) for row in rows)
    whole = element("table", element("thead", element("tr", cells("th", head))), element("tbody", body), class_=class_)
    return element("div", whole, class_="scroll")


def pairs(entries: Iterable[tuple[str, Content]]) -> Markup:
    """Return names with their values, one pair a line."""
    return element("dl", joined(joined((element("dt", name), element("dd", text))) for name, text in entries))


def image(png_base64: str, words: str) -> Markup:
    """Return a figure of an embedded PNG with its caption."""
    picture = Markup(f'<img src="data:image/png;base64,{png_base64}" alt="{escape(words)}">')
    return element("figure", picture, element("figcaption", words))

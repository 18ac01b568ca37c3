"""A page as a tree of elements, by Python's own parser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = ("meta", "img", "wbr")


@dataclass
class Element:
    """An element with what it holds: text and other elements."""

    name: str
    attributes: dict[str, str | None] = field(default_factory=dict)
    inside: list[str | Element] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text in it."""
        return "".join(one if isinstance(one, str) else one.text for one in self.inside)

    def all(self, name: str = "", class_: str = "") -> Iterator[Element]:
        """The elements in it of a name and a class, in their order."""
        for one in self.inside:
            if isinstance(one, Element):
                classes = (one.attributes.get("class") or "").split()
                if name in ("", one.name) and (not class_ or class_ in classes):
                    yield one
                yield from one.all(name, class_)

    def by_id(self, name: str) -> Element:
        """The one element of that id."""
        (found,) = (one for one in self.all() if one.attributes.get("id") == name)
        return found

    def rows(self) -> list[list[str]]:
        """The cells of a table as text, without its head."""
        (body,) = self.all("tbody")
        return [[cell.text for cell in row.all("td")] for row in body.all("tr")]


def parsed(page: str) -> Element:
    """A page as a tree; fails where an element is not closed, or closed twice."""
    parser = _Parser()
    parser.feed(page)
    parser.close()
    assert [one.name for one in parser.open] == ["page"], "every element is closed"
    return parser.open[0]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("page")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.open[-1].inside.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.open[-1].inside.append(data)

"""HTML as text: what is no markup yet is escaped where it is put in."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

VOID = {"meta", "img"}
"""Elements that hold nothing and have no end."""


TOP_LEVEL = "(top level)"
"""What the model itself is called, whose path is ''."""


class Markup(str):
    """Text that is HTML already. Any other text is taken for a user's, and is escaped."""

    __slots__ = ()


def markup(*pieces: str) -> Markup:
    """Pieces one after another."""
    return Markup(
        "".join(piece if isinstance(piece, Markup) else escape(piece) for piece in pieces)
    )


def tag(name: str, /, *inside: str, **attributes: str | float | bool) -> Markup:
    """An element.

    Args:
        name: of the element.
        inside: text, and other elements.
        attributes: ``class_="x"`` is ``class="x"``, ``http_equiv`` is ``http-equiv``; one that is
            True has no value, one that is False is left out.
    """
    given = "".join(
        f" {_attribute(key)}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not False
    )
    end = "" if name in VOID else f"</{name}>"
    return Markup(f"<{name}{given}>{markup(*inside)}{end}")


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def table(head: Iterable[str], rows: Iterable[Iterable[str]], class_: str = "") -> Markup:
    """A table; all cells of a column that is headed with ``>`` are numbers, to the right."""
    titles = list(head)
    sides = ["number" if title.startswith(">") else "" for title in titles]

    def row(name: str, cells: Iterable[str]) -> Markup:
        return tag(
            "tr",
            *(
                tag(name, cell, class_=side) if side else tag(name, cell)
                for cell, side in zip(cells, sides, strict=True)
            ),
        )

    heading = tag("thead", row("th", [title.removeprefix(">") for title in titles]))
    body = tag("tbody", *(row("td", cells) for cells in rows))
    return tag("table", heading, body, class_=class_ or False)


def path(module: str) -> Markup:
    """The path of a module, which is broken after its dots where it must be."""
    if not module:
        return tag("code", TOP_LEVEL)
    names = module.split(".")
    return tag("code", *(markup(f"{name}.", Markup("<wbr>")) for name in names[:-1]), names[-1])


def folded(title: str, *inside: str, opened: bool = False) -> Markup:
    """What opens when its title is clicked."""
    return tag("details", tag("summary", title), *inside, open=opened)

"""Bars before and after, as inline SVG that is as wide as the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pitome_fx.page.markup import Markup, markup, tag

HEIGHT = 100
STEP = 10
"""Width of a bar with the gap to the next, in units that are stretched to the width of the page."""


WIDEST, NARROWEST = 8, 32
"""Width of a bar at most, and of a chart of few bars, in rem; on a phone they are narrower."""


class Bar(NamedTuple):
    """What is drawn side by side: a value before and after, and what it is of."""

    name: str
    before: float
    after: float


def chart(
    title: str, bars: Sequence[Bar], highest: str, written: str, meaning: tuple[str, str]
) -> Markup:
    """A bar for each, the value after in front of that before.

    Args:
        bars: one or more, not all of them zero.
        highest: the largest value as text, which the scale is labelled with.
        written: a format for the two values of a bar, as ``{:.2f} → {:.2f}``.
        meaning: what the two values are.
    """
    top = max(max(bar.before, bar.after) for bar in bars)
    drawn = [
        tag(
            "g",
            tag("title", f"{bar.name}: {written.format(bar.before, bar.after)}"),
            _rectangle(i, bar.before / top, "before"),
            _rectangle(i, bar.after / top, "after"),
        )
        for i, bar in enumerate(bars)
    ]
    keys = (
        markup(tag("i", class_=f"key {key}"), f" {text} ")
        for key, text in zip(("before", "after"), meaning, strict=True)
    )
    # Its texts are no part of the picture: they would be stretched with it.
    picture = tag(
        "svg",
        *drawn,
        viewBox=f"0 0 {STEP * len(bars)} {HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=title,
    )
    ends = dict.fromkeys((bars[0], bars[-1]))
    return tag(
        "figure",
        tag("figcaption", title),
        tag("div", tag("span", highest, class_="small"), picture, class_="plot"),
        tag("div", *(tag("span", bar.name) for bar in ends), class_="ends small"),
        tag("div", *keys, class_="small"),
        style=f"max-width: {max(WIDEST * len(bars), NARROWEST)}rem",
    )


def _rectangle(i: int, share: float, class_: str) -> Markup:
    height = round(share * HEIGHT, 2)
    return tag(
        "rect", x=STEP * i + 1, y=round(HEIGHT - height, 2), width=8, height=height, class_=class_
    )

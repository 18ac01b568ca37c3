"""Pictures of what merged, in the page itself."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from pitome_fx.page.contents import Picture
from pitome_fx.page.markup import Markup, markup, tag


def pictures(found: Sequence[Picture], why_not: str = "") -> Markup:
    """Every picture under its title; where there are none why, if there is a reason to tell."""
    if not found:
        return markup(tag("h2", "Pictures"), tag("p", why_not)) if why_not else markup()
    return markup(
        tag("h2", "Pictures"),
        tag("div", *(_picture(title, data) for title, data in found), class_="pictures"),
    )


def _picture(title: str, data: bytes | str) -> Markup:
    # An SVG as an image runs no script, and its names meet no others.
    kind, raw = ("png", data) if isinstance(data, bytes) else ("svg+xml", data.encode())
    source = f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"
    return tag("figure", tag("img", src=source, alt=title), tag("figcaption", title))

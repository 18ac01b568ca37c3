"""The page: all sections in order, in one document."""

from __future__ import annotations

from pitome_fx.page.contents import Contents
from pitome_fx.page.listing import listings
from pitome_fx.page.markup import Markup, tag
from pitome_fx.page.pictures import pictures
from pitome_fx.page.reproduce import reproduce
from pitome_fx.page.sections import flops, headline, moves, notes, verdicts
from pitome_fx.page.style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Nothing is fetched and no script runs, whatever the page holds."""


def page(contents: Contents) -> str:
    """The whole document."""
    title = f"{contents.model}: token merging"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    body = tag(
        "main",
        tag("h1", title),
        tag("p", "algorithm ", tag("code", contents.report.algorithm), class_="small"),
        headline(contents.report),
        verdicts(contents),
        pictures(contents.pictures, contents.no_pictures),
        flops(contents),
        moves(contents.report),
        notes(contents.report),
        listings(contents),
        reproduce(contents.options),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", body), lang="en")

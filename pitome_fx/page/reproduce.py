"""The options in each of the ways in which they can be given."""

from __future__ import annotations

import dataclasses

from pitome_fx.options import AMOUNTS, Options
from pitome_fx.page.markup import Markup, markup, tag

COMMAND = "python -m pitome_fx explain MODEL --options options.json --html report.html"


def reproduce(options: Options) -> Markup:
    """What to write in Python, and on the command line.

    Args:
        options: as they were given.
    """
    if all(getattr(options, name) is None for name in AMOUNTS):
        # The default amount may be another in another version.
        options = dataclasses.replace(options, flops=options.resolved().flops)
    own = options.changed()
    given = "".join(f", {name}={value!r}" for name, value in own.items())
    python = (
        f"pitome_fx.explain(model, args, kwargs{given})\n"
        f'torch.compile(model, backend="pitome", options={own!r})'
    )
    shown = markup(tag("h2", "To reproduce it"), tag("pre", python, id="python"))
    try:
        written = options.to_json()
    except (TypeError, ValueError):
        why = "JSON has no form for some of these values, so that no file can hold the options."
        return markup(shown, tag("p", why))
    about = markup("On the command line, with this in ", tag("code", "options.json"), ":")
    return markup(shown, tag("p", about), tag("pre", COMMAND), tag("pre", written, id="options"))

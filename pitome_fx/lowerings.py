"""Names that ``lowering=`` takes, and the form of merged graphs that each wants."""

from __future__ import annotations

from typing import Literal

import torch

from pitome_fx.errors import OptionsError

Form = Literal["pitome", "aten", "portable"]

WANTED_FORMS: dict[str, Form] = {}
"""By name, for the lowerings that have a file of their own (``backends/``)."""


def form_of(name: str) -> Form:
    """The form that a lowering takes where the user names none."""
    return WANTED_FORMS.get(name, "pitome")


def known_lowerings() -> set[str]:
    """Names that ``lowering=`` takes; not all of them need to be installed."""
    registered = torch._dynamo.list_backends(exclude_tags=None)
    return {*registered, *WANTED_FORMS} - {"pitome"}


def unknown_lowering(name: str) -> OptionsError:
    """The error for a lowering that is none of these."""
    return OptionsError(
        f"lowering={name!r} is no registered Dynamo backend. "
        f"Registered: {', '.join(sorted(known_lowerings()))}."
    )

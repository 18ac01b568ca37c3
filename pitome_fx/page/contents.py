"""What a page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from pitome_fx.options import Options
from pitome_fx.passes.pipeline import Outcome
from pitome_fx.report import Report

Picture = tuple[str, bytes | str]
"""A title, and a PNG as bytes or an SVG as text."""


@dataclass(frozen=True)
class Contents:
    """All that a page is made of.

    Attributes:
        model: what the model is called.
        report: on all its graphs.
        outcomes: what became of each graph.
        options: as they were given.
        names: paths of the model's parameters, by their ``id``.
        pictures: of what merged on the inputs.
        no_pictures: why there are none, if the inputs are images.
    """

    model: str
    report: Report
    outcomes: Sequence[Outcome]
    options: Options
    names: Mapping[int, str] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()
    no_pictures: str = ""


def name_of(model: Any) -> str:
    """What to call a model: its class, or its own name if it is a function."""
    if isinstance(model, nn.Module | ExportedProgram):
        return type(model).__name__
    return getattr(model, "__qualname__", type(model).__name__)


def names_of(model: Any) -> dict[int, str]:
    """Paths of a model's parameters by their ``id``; none of a function's."""
    if isinstance(model, nn.Module):
        return {id(value): name for name, value in model.named_parameters()}
    if isinstance(model, ExportedProgram):
        return {id(value): name for name, value in model.state_dict.items()}
    return {}

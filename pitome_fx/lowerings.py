"""The table of lowerings: what turns a rewritten graph into something that runs fast.

One file each, in ``backends/``; any other name is that of a registered Dynamo backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch.fx import GraphModule

if TYPE_CHECKING:
    from pitome_fx.options import Options

from pitome_fx.errors import OptionsError

Form = Literal["pitome", "aten", "portable"]
Compiled = Callable[..., Any]


@dataclass(frozen=True)
class Job:
    """A graph to be lowered.

    Attributes:
        example_inputs: its inputs.
        mode: ``mode=`` of torch.compile; None for lowerings that take none.
        merged: does the graph run on merged tokens?
    """

    graph: GraphModule
    example_inputs: Sequence[Any]
    options: Options
    mode: str | None
    merged: bool

    @property
    def settings(self) -> Mapping[str, Any]:
        """The lowering's own options."""
        return self.options.lowering_options


class Check(Protocol):
    """Raises OptionsError for a lowering that is not there, or an option that it does not take."""

    def __call__(self, options: Options) -> None: ...


@dataclass(frozen=True)
class Lowering:
    """One lowering.

    Attributes:
        names: what ``lowering=`` calls it.
        check: run before any work is done.
        compile: raises LoweringError where the engine cannot take the graph.
        form: the form of merged graphs that it takes, if the user names none.
        takes_mode: it is told the ``mode=`` of torch.compile.
    """

    names: tuple[str, ...]
    check: Check
    compile: Callable[[Job], Compiled]
    form: Form = "pitome"
    takes_mode: bool = False


LOWERINGS: dict[str, Lowering] = {}
"""Those with a file of their own, by name."""


def register_lowering(lowering: Lowering) -> Lowering:
    """Add a lowering to the table."""
    LOWERINGS.update(dict.fromkeys(lowering.names, lowering))
    return lowering


def form_of(name: str) -> Form:
    """The form that a lowering takes where the user names none."""
    return LOWERINGS[name].form if name in LOWERINGS else "pitome"


def known_lowerings() -> set[str]:
    """Names that ``lowering=`` takes; not all of them need to be installed."""
    registered = torch._dynamo.list_backends(exclude_tags=None)
    return {*registered, *LOWERINGS} - {"pitome"}


def unknown_lowering(name: str) -> OptionsError:
    """The error for a lowering that is none of these."""
    return OptionsError(
        f"lowering={name!r} is no registered Dynamo backend. "
        f"Registered: {', '.join(sorted(known_lowerings()))}."
    )

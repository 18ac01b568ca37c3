"""What a lowering is, and the table of them; one file each beside this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule

from pitome_fx.lowerings import WANTED_FORMS, Form
from pitome_fx.options import Options

Compiled = Callable[..., Any]


@dataclass(frozen=True)
class Job:
    """A graph to be lowered.

    Attributes:
        example_inputs: its inputs.
        mode: ``mode=`` of torch.compile; None for lowerings that take none.
        merged: does the graph run on merged tokens?
        dense: of a merged graph the job as it was given, with the graph that Dynamo captured.
    """

    graph: GraphModule
    example_inputs: Sequence[Any]
    options: Options
    mode: str | None
    merged: bool
    dense: Job | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The lowering's own options."""
        return self.options.lowering_options


@dataclass(frozen=True)
class Lowering:
    """One lowering.

    Attributes:
        names: what ``lowering=`` calls it.
        check: run before any work is done; raises OptionsError for a lowering that is not there,
            or an option that it does not take.
        compile: raises LoweringError where the engine cannot take the graph.
        form: the form of merged graphs that it takes, if the user names none.
        takes_mode: it is told the ``mode=`` of torch.compile.
        takes_regions: it can compile a graph region by region.
    """

    names: tuple[str, ...]
    check: Callable[[Options], None]
    compile: Callable[[Job], Compiled]
    form: Form = "pitome"
    takes_mode: bool = False
    takes_regions: bool = False


LOWERINGS: dict[str, Lowering] = {}
"""Those with a file of their own, by name."""


def register_lowering(lowering: Lowering) -> None:
    """Add a lowering to the table."""
    LOWERINGS.update(dict.fromkeys(lowering.names, lowering))
    WANTED_FORMS.update(dict.fromkeys(lowering.names, lowering.form))

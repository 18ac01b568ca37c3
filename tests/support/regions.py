"""Region by region without compiling: every cut and every call, and none of the seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.fx import GraphModule

from pitome_fx import Options
from pitome_fx.backends.kinds import compile_all
from pitome_fx.backends.lowering import LOWERINGS, Compiled, Job, Lowering, register_lowering
from pitome_fx.lowerings import WANTED_FORMS
from pitome_fx.passes.regions.cutting import Cut, cut

NAME = "by-regions"


def apart(kinds: Sequence[int], costs: Sequence[int]) -> list[tuple[int, int]]:
    """Every atom is a region."""
    return [(i, i + 1) for i in range(len(kinds))]


def as_it_is(graph: GraphModule, inputs: Sequence[Any], options: Options) -> Compiled:
    """Compiles nothing."""
    return graph.forward


@contextmanager
def by_regions(join: Any = apart) -> Iterator[list[Cut | str]]:
    """A lowering that cuts graphs wherever they may be cut, and calls the regions as they are.

    Yields:
        what became of each merged graph.
    """
    seen: list[Cut | str] = []

    def compile_job(job: Job) -> Compiled:
        found = cut(job.graph, job.example_inputs, join) if job.merged else "dense"
        seen.append(found)
        if isinstance(found, str):
            return job.graph.forward
        return compile_all(job, found, as_it_is)

    register_lowering(Lowering((NAME,), lambda options: None, compile_job))
    try:
        yield seen
    finally:
        del LOWERINGS[NAME], WANTED_FORMS[NAME]

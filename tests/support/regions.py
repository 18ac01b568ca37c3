"""Region by region without compiling: every cut and every call, and none of the seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from pitome_fx import Options
from pitome_fx.backends.kinds import compile_all
from pitome_fx.backends.lowering import LOWERINGS, Compiled, Job, Lowering, register_lowering
from pitome_fx.lowerings import WANTED_FORMS
from pitome_fx.passes.regions.cutting import Cut, cut
from tests.support.compiled import compiled
from tests.support.models import Case

NAME = "by-regions"


def run(case: Case, lowering: str, **options: Any) -> Any:
    """Compile and run a case."""
    torch._dynamo.reset()
    options = {"ratio": 0.75, "lowering": lowering, **options}
    return compiled(case.model, **options)(*case.args, **case.kwargs)


def close(found: Tensor, wanted: Tensor) -> None:
    """Equal up to rounding in float64."""
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def said(caplog: pytest.LogCaptureFixture) -> tuple[int, int, int]:
    """Regions, kinds, and how many were compiled, by the last line that says so."""
    found = re.findall(r"(\d+) regions of (\d+) kinds, (\d+) compiled now", caplog.text)
    regions, different, now = map(int, found[-1])
    return regions, different, now


def apart(kinds: Sequence[int], costs: Sequence[int]) -> list[tuple[int, int]]:
    """Every atom is a region."""
    return [(i, i + 1) for i in range(len(kinds))]


def as_it_is(graph: GraphModule, inputs: Sequence[Any], options: Options) -> Compiled:
    """Compiles nothing; what it is called on must be as the example inputs say."""
    symbols = [x.node.expr for x in inputs if isinstance(x, torch.SymInt)]

    def checked(*args: Any) -> Any:
        known = dict(zip(symbols, args, strict=False))
        for fake, real in zip(inputs, args, strict=True):
            if isinstance(fake, Tensor):
                assert _described(fake, known) == _described(real, known)
        return graph.forward(*args)

    return checked


def _described(x: Tensor, known: dict[Any, int]) -> tuple[Any, ...]:
    def number(n: Any) -> int:
        return n if isinstance(n, int) else int(n.node.expr.xreplace(known))

    sizes, strides = ([number(n) for n in sizes] for sizes in (x.shape, x.stride()))
    # The stride of a dimension of length one is read by nobody, and not the same everywhere.
    stepped = [stride for n, stride in zip(sizes, strides, strict=True) if n > 1]
    return x.dtype, x.requires_grad, sizes, stepped


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

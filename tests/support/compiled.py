"""Compiling through the entry point, and what reaches the lowering."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._dynamo.backends import registry
from torch._dynamo.testing import EagerAndRecordGraphs
from torch.fx import GraphModule

from pitome_fx import PitomeWarning
from tests.support.models import Case


def compiled(model: Any, **options: Any) -> Any:
    """torch.compile with the backend, by name, as a user does; eager lowering and strict."""
    options = {"lowering": "eager", "strict": True, **options}
    return torch.compile(model, backend="pitome", options=options)


def output_of(case: Case, **options: Any) -> Any:
    """What the case's model computes when compiled, without gradients."""
    with torch.no_grad():
        return compiled(case.model, **options)(*case.args, **case.kwargs)


@contextmanager
def recording() -> Iterator[list[GraphModule]]:
    """A lowering named ``"recording"`` that runs graphs as they are and keeps them."""
    recorder = EagerAndRecordGraphs()
    torch._dynamo.register_backend(recorder, name="recording")
    try:
        yield recorder.graphs
    finally:
        del registry._BACKENDS["recording"], registry._COMPILER_FNS["recording"]


def has_pitome_nodes(graph: GraphModule) -> bool:
    """Does a graph contain any pitome op?"""
    return any(getattr(node.target, "namespace", "") == "pitome" for node in graph.graph.nodes)


@contextmanager
def told() -> Iterator[list[str]]:
    """The library's warnings given inside."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += [str(w.message) for w in caught if issubclass(w.category, PitomeWarning)]

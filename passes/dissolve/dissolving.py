"""Dissolve: replace the pitome ops of a rewritten graph by ATen ops, for where it is to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter

from pitome_fx.algorithms import is_shipped
from pitome_fx.lowerings import Form
from pitome_fx.ops import OPS
from pitome_fx.passes.capture.guards import tentative
from pitome_fx.passes.capture.program import fake_mode_of, restore_placeholders, trace
from pitome_fx.passes.capture.subclasses import restore_calls
from pitome_fx.passes.failures import failing_in
from pitome_fx.portable import PORTABLE

Bodies = Mapping[Any, Callable[..., Any]]


BODIES: dict[Form, Bodies] = {
    "aten": {op.overload: op.body for op in OPS.values()},
    "portable": {OPS[name].overload: body for name, body in PORTABLE.items()},
}
"""Form → what each op of the graph is replaced by."""


def dissolve(
    graph: GraphModule, inputs: Sequence[Any], form: Form, *, guarded: bool = False
) -> GraphModule:
    """The graph without pitome ops, with the same placeholders and outputs.

    Args:
        graph: a rewritten graph.
        inputs: what its placeholders stand for: fake tensors, ints and SymInts.
        form: ``"aten"`` or ``"portable"``; ``"pitome"`` leaves the graph as it is.
        guarded: keep the guards on sizes. Else they go where the nodes hold for all sizes, so that
            only metadata asks: that of our own algorithms, not of a user's.
    """
    if form == "pitome":
        return graph
    matches = graph.graph.find_nodes(op="call_function", target=OPS["match"].overload)
    own = all(is_shipped(node.args[3]) for node in matches)
    with tentative(inputs) as guards:
        dissolved = trace(_Dissolve(graph, BODIES[form]).run, inputs, fake_mode_of(inputs))
        if guarded or not own:
            guards.keep()
        else:
            guards.hand_on()
    restore_placeholders(graph, dissolved)
    dissolved.graph.eliminate_dead_code()
    restore_calls(dissolved)
    dissolved.graph.lint()
    dissolved.recompile()
    return dissolved


class _Dissolve(Interpreter):
    """Runs a graph with other bodies for some of its ops."""

    def __init__(self, graph: GraphModule, bodies: Bodies) -> None:
        super().__init__(graph)
        self.extra_traceback = False
        self.bodies = bodies

    def run_node(self, n: torch.fx.Node) -> Any:
        with failing_in("dissolve", n):
            return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.bodies.get(target, target)(*args, **kwargs)

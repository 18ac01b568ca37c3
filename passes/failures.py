"""What goes wrong inside the pass: one kind of error, with the stage, the op and the module."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch._dynamo.exc import RestartAnalysis, SkipFrame
from torch._ops import OpOverload
from torch.fx import Node

from pitome_fx.errors import PassError, PitomeError, in_short

APART = "keep that part out of the graph with torch.compiler.disable"
STAGES = {
    "capture": ("tracing the program to ATen", APART),
    "detect": ("looking for attention", APART),
    "plan": ("planning how much to merge", "give another amount (ratio=, r=, schedule=)"),
    "rewrite": ("rewriting the graph", "leave that attention out with the option blocks"),
    "dissolve": ("writing its ops in ATen", "ask for another form or lowering"),
    "report": ("summing up what it did", "leave that attention out with the option blocks"),
}
"""Stage → what the pass does in it, and what a user can do about a failure there."""

REPORT_IT = "please report it with the model's code or graph (TORCH_LOGS='+pitome_fx' shows it)"

EXPECTED = (PitomeError, RestartAnalysis, SkipFrame)
"""What is meant for the user or for Dynamo as it is."""


def module_path(node: Node) -> str:
    """Where in the user's model a node comes from, '' if that is not known."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] if isinstance(entry, tuple) else str(entry) for entry in stack.values()]
    # Dynamo names modules from the local variable that holds the model: L['self'].blocks.0
    return re.sub(r"^(L\['\w+'\]|self)\.?", "", paths[-1]) if paths else ""


@contextmanager
def failing_in(stage: str, node: Node | None = None) -> Iterator[None]:
    """An unexpected error becomes a PassError, which names the innermost node known.

    Args:
        stage: a key of ``STAGES``.
        node: the node at work.
    """
    try:
        yield
    except EXPECTED:
        raise
    except Exception as error:
        doing, instead = STAGES[stage]
        at = "" if node is None else f" at {_op(node)} in {module_path(node) or 'the top level'}"
        raise PassError(
            f"the pass failed while {doing}{at} ({in_short(error)}): {instead}, and {REPORT_IT}"
        ) from error


def runs_dense(error: PassError) -> str:
    """What a failure means for the user of torch.compile."""
    return f"a graph of this model runs dense: {error}"


def _op(node: Node) -> str:
    target: Any = node.target
    if node.op == "call_function":
        return str(target) if isinstance(target, OpOverload) else getattr(target, "__name__", "?")
    return "an output" if node.op == "output" else f"{node.op} {target}"

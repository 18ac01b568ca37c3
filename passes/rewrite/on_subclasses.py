"""Whether tensor subclasses among a model's inputs can take its merged graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node

from pitome_fx.passes.capture.subclasses import kind_of, run_call, wrappers_in
from pitome_fx.passes.failures import module_path
from pitome_fx.passes.tokens.sizes import same_size


def why_not_on(graph: GraphModule, given: Iterable[Any], fake_mode: FakeTensorMode) -> str | None:
    """Run what takes a subclass tensor on fake ones. Why the graph cannot have it, None if it can.

    Args:
        graph: a rewritten graph.
        given: what the model's placeholders are: fake tensors, subclass tensors among them.
    """
    checker = _Checker(fake_mode)
    feed = iter(given)
    reasons: list[str] = []
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            checker.learn(node, next(feed))
        elif node.op in ("call_function", "call_method") and checker.concerns(node):
            if getattr(node.target, "namespace", "") == "pitome":
                return checker.holds_tokens(node)
            reasons += checker.check(node)
    return reasons[0] if reasons else None


class _Checker:
    """Follows the subclass tensors through a graph."""

    def __init__(self, fake_mode: FakeTensorMode) -> None:
        self.fake_mode = fake_mode
        self.known: dict[Node, Any] = {}

    def learn(self, node: Node, value: Any) -> None:
        """Keep a value that is, or holds, a subclass tensor."""
        if wrappers_in(value):
            self.known[node] = value

    def concerns(self, node: Node) -> bool:
        """Does the node take any?"""
        return any(source in self.known for source in node.all_input_nodes)

    def holds_tokens(self, node: Node) -> str:
        """What to say of a node that would merge subclass tensors."""
        kind, where = self._kind_and_place(node)
        return (
            f"tokens in {where} are a {kind}, and only plain tensors are merged: a {kind} may "
            "hold more about each token than its values. Hand the model plain tensors"
        )

    def check(self, node: Node) -> list[str]:
        """Run the node; what is wrong with it."""
        kind, where = self._kind_and_place(node)
        try:
            value = self._run(node)
        except Exception as error:
            return [
                f"{node.target} on a {kind} in {where} does not run on merged tokens "
                f"({type(error).__name__}: {error})"
            ]
        self.learn(node, value)
        if _same_form(value, node.meta["val"]):
            return []
        return [
            f"{node.target} on a {kind} in {where} returns another shape, dtype or layout "
            "than it does on plain tensors"
        ]

    def _kind_and_place(self, node: Node) -> tuple[str, str]:
        operands = [self.known.get(source) for source in node.all_input_nodes]
        kind = kind_of(x for value in operands for x in wrappers_in(value))
        return kind, module_path(node) or "the model"

    def _run(self, node: Node) -> Any:
        args, kwargs = torch.fx.node.map_arg(
            (node.args, dict(node.kwargs)), lambda n: self.known.get(n, n.meta.get("val"))
        )
        with self.fake_mode:
            return run_call(node.op, node.target, args, kwargs)


def _same_form(value: Any, wanted: Any) -> bool:
    values, others = pytree.tree_leaves(value), pytree.tree_leaves(wanted)
    return len(values) == len(others) and all(
        _is_like(a, b) for a, b in zip(values, others, strict=True) if isinstance(b, Tensor)
    )


def _is_like(a: Any, b: Tensor) -> bool:
    """Two tensors that differ in their values alone; of a subclass tensor, on the outside."""
    if not isinstance(a, Tensor) or (a.dtype, a.device, a.dim()) != (b.dtype, b.device, b.dim()):
        return False
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(same_size(x, y) for x, y in zip(a.shape, b.shape, strict=True)) and all(
        same_size(n, 1) or same_size(x, y) for n, x, y in strides
    )

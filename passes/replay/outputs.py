"""Outputs of the rewritten graph: dense, and in memory as the dense program leaves them.

They have its strides and offsets, and those that share memory there share it here, so that what a
caller writes into one is seen in the other. What was merged and unmerged is a copy: views of it
are taken once more, of one dense copy of the tensor that they are views of.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import Node
from torch.fx import traceback as fx_traceback
from torch.multiprocessing.reductions import StorageWeakRef

from pitome_fx.passes.capture.functional import MADE_PURE, is_write
from pitome_fx.passes.replay.events import LiftEvent, ProjectEvent
from pitome_fx.passes.replay.layout import laid_out, lies_like
from pitome_fx.passes.tokens.dims import TokenTensor


class Replayed(Protocol):
    """What is asked of a replay that is done.

    Attributes:
        labelling: nothing was executed.
        env: the value of every node.
        lifts, projections: what was unmerged, and what was merged along.
        replaced: nodes whose value is another than what the op yields.
    """

    labelling: bool
    env: dict[Node, Any]
    lifts: list[LiftEvent]
    projections: list[ProjectEvent]
    replaced: set[Node]

    def lift(self, x: TokenTensor) -> TokenTensor:
        """The unmerged value."""

    def as_promised(self, x: TokenTensor) -> Tensor:
        """The dense tensor as it lies in memory in the dense program."""


def dense_outputs(replay: Replayed, output: Node) -> Any:
    """The values of an output node."""
    values = torch.fx.node.map_arg(output.args[0], replay.env.__getitem__)
    if replay.labelling:
        return pytree.tree_map_only(TokenTensor, lambda x: x.data, values)
    outputs = DenseOutputs(replay, output, output.all_input_nodes)
    return pytree.tree_map_only(TokenTensor, outputs.promised, values)


class DenseOutputs:
    """The dense outputs of one replay, by the nodes of the dense program that yield them.

    Args:
        nodes: those whose values are returned dense.
    """

    def __init__(self, replay: Replayed, output: Node, nodes: Iterable[Node]) -> None:
        self.replay = replay
        self.output = output
        self.copied = replay.replaced.union(event.node for event in replay.projections)
        self.made: dict[Node, Any] = {}
        self.views: dict[Node, set[Node]] = {}
        for node in nodes:
            self.views.setdefault(self._base(node), set()).add(node)

    def promised(self, x: TokenTensor) -> Tensor:
        """One output, dense."""
        node = x.origin
        if node is None or not (x.tainted or x.merged):
            return x.data
        if x.merged:
            self.replay.lifts.append(LiftEvent(self.output, node, "an output of the graph"))
        base = self._base(node)
        if node not in self.made and self._has_room_alone(x, base):
            with fx_traceback.set_current_meta(node):
                apart = laid_out(x.data, node.meta["val"])
            if lies_like(apart, node.meta["val"]):
                self.made[node] = apart
        self._note_shared(base)
        made: Tensor = self._made(node, base)
        return made

    def _has_room_alone(self, x: TokenTensor, base: Node) -> bool:
        """Is it a view, not merged itself and for no other output to see, of merged tokens?"""
        whole = self.replay.env[base]
        return not x.merged and whole.merged and len(self.views[base]) == 1

    def _note_shared(self, base: Node) -> None:
        """Tokens that only share memory with what is not merged are unmerged for its sake."""
        whole = self.replay.env[base]
        told = any(self.replay.env[node].merged for node in self.views[base])
        if whole.merged and not told and base not in self.made and not self._all_made(base):
            why = "outputs of the graph are parts of it that share its memory"
            self.replay.lifts.append(LiftEvent(self.output, base, why))

    def _all_made(self, base: Node) -> bool:
        return self.views[base] <= self.made.keys()

    def _made(self, node: Node, base: Node) -> Any:
        """The value of a node as a view of the one dense copy of its base."""
        if node not in self.made:
            with fx_traceback.set_current_meta(node):
                self.made[node] = self._make(node, base)
        return self.made[node]

    def _make(self, node: Node, base: Node) -> Any:
        if node is base:
            return self.replay.as_promised(self.replay.env[node])
        parent = _parent(node)
        assert parent is not None
        whole = self._made(parent, base)
        if is_write(node):
            # What it writes is written, and it returns what it wrote to.
            return whole

        def operand(source: Node) -> Any:
            if source is parent:
                return whole
            value = self.replay.env[source]
            return pytree.tree_map_only(TokenTensor, lambda x: self.replay.lift(x).data, value)

        args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), operand)
        target: Any = node.target
        return target(*args, **kwargs)

    def _base(self, node: Node) -> Node:
        """The node whose memory a node's value is a view of, as far as the replay kept views."""
        while not self._owns_memory(node):
            parent = _parent(node)
            if parent is None or (_is_list(parent) and _is_list(self._base(parent))):
                break
            node = parent
        return node

    def _owns_memory(self, node: Node) -> bool:
        return node in self.copied or MADE_PURE in node.meta or _parent(node) is None


def _parent(node: Node) -> Node | None:
    """The operand that the node's value is a view of, or the list it is taken from."""
    if node.target is operator.getitem:
        return node.all_input_nodes[0]
    own = set(_storages(node))
    return next((n for n in node.all_input_nodes if own.intersection(_storages(n))), None)


def _is_list(node: Node) -> bool:
    return isinstance(node.meta.get("val"), list | tuple)


def _storages(node: Node) -> Iterator[StorageWeakRef]:
    """The memory that the value of a node lies in."""
    for value in pytree.tree_leaves(node.meta.get("val")):
        if isinstance(value, Tensor):
            yield StorageWeakRef(value.untyped_storage())

"""The interpreter: replay a graph node by node, each through the token rule of its op.

One walk serves two stages. *Labelling* runs the rules on the dense graph and reads results off
the recorded metadata: it executes nothing and yields the identity of every dimension.
*Rewriting* runs the same rules on live (fake or real) tensors, some of them merged. An op without
a rule, or whose rule gives up, is lifted: its operands are unmerged and it runs unchanged.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import Node
from torch.fx import traceback as fx_traceback

from pitome_fx.passes.aten.operands import value_operands
from pitome_fx.passes.failures import failing_in
from pitome_fx.passes.replay.check import check_labels
from pitome_fx.passes.replay.events import LiftEvent, ProjectEvent, UnweightedEvent
from pitome_fx.passes.replay.labels import Labels
from pitome_fx.passes.replay.layout import laid_out
from pitome_fx.passes.replay.outputs import dense_outputs
from pitome_fx.passes.replay.sizes import follow
from pitome_fx.passes.replay.step import Step
from pitome_fx.passes.replay.treatment import Treatments
from pitome_fx.passes.tokens import moves
from pitome_fx.passes.tokens.dims import TokenTensor
from pitome_fx.passes.tokens.rule import Lift, rule_for

Hook = Callable[["Replay", Node, Any], Any]
Watch = Callable[[Any, Any, Any], None]
Outputs = Callable[["Replay", Node], Any]


class Replay:
    """Replays one graph.

    Args:
        graph: pre-dispatch ATen, with ``meta["val"]`` on every node.
        constant: nodes that depend on parameters, buffers and constants alone.
        labels: dimension identities; None for the labelling run that finds them.
        after: called with each node and its value; may replace the value (this is how a merge
            gets in).
        treatments: how operands are merged along.
        watch: called with every op that runs, and its arguments.
        outputs: yields what is returned, from the output node.
    """

    def __init__(
        self,
        graph: torch.fx.GraphModule,
        constant: frozenset[Node],
        labels: Labels | None = None,
        after: Hook = lambda replay, node, value: value,
        treatments: Treatments | None = None,
        watch: Watch = lambda op, args, kwargs: None,
        outputs: Outputs = dense_outputs,
    ) -> None:
        self.graph = graph
        self.constant = constant
        self.labelling = labels is None
        self.labels = Labels() if labels is None else labels
        self.after = after
        self.treatments = treatments or Treatments()
        self.watch = watch
        self.outputs = outputs
        self.env: dict[Node, Any] = {}
        self.lifts: list[LiftEvent] = []
        self.projections: list[ProjectEvent] = []
        self.unweighted: list[UnweightedEvent] = []
        self.undone: set[int] = set()
        self.replaced: set[Node] = set()
        self._lifted: dict[int, tuple[TokenTensor, TokenTensor]] = {}
        self.brought: dict[Any, tuple[TokenTensor, TokenTensor, TokenTensor]] = {}

    def run(self, *inputs: Any) -> Any:
        """Replay on the placeholders' values; returns the outputs."""
        feed = iter(inputs)
        stage = "detect" if self.labelling else "rewrite"
        for node in self.graph.graph.nodes:
            with failing_in(stage, node):
                if node.op == "output":
                    return self.outputs(self, node)
                with fx_traceback.set_current_meta(node):
                    own = self._value(node, feed)
                    if not self.labelling:
                        follow(node.meta.get("val"), own)
                    value = self.after(self, node, own)
                if value is not own:
                    self.replaced.add(node)
                check_labels(node, value)
                self.env[node] = _stamp(value, node)
                if self.labelling:
                    self.labels.dims[node] = _dims_of(value)
        raise AssertionError("a graph ends with an output node")

    def _value(self, node: Node, feed: Iterator[Any]) -> Any:
        if node.op == "placeholder":
            return self._named(node, next(feed))
        if node.op == "get_attr":
            return self._named(node, operator.attrgetter(str(node.target))(self.graph))
        return self.computed(node, self.env.__getitem__)

    def computed(self, node: Node, operand: Callable[[Node], Any]) -> Any:
        """What a node computes from the values that ``operand`` gives for its inputs."""
        args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), operand)
        if node.target is operator.getitem:
            return _item(args)
        operands = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, TokenTensor)]
        if self.labelling or any(x.merged for x in operands):
            value = self._by_rule(node, args, kwargs, operands)
        else:
            value = self._as_is(node, args, kwargs)
        return value if self.labelling or not self._is_tainted(node) else _taint(value)

    def _is_tainted(self, node: Node) -> bool:
        """Is the node computed from values that are computed from merged tokens?"""
        sources = pytree.tree_leaves([self.env[source] for source in value_operands(node)])
        return any(isinstance(x, TokenTensor) and x.tainted for x in sources)

    def _named(self, node: Node, value: Any) -> Any:
        """A value of the dense program with its dimensions: the recorded ones, or fresh."""
        if not self.labelling:
            return _with_dims(value, self.labels.dims[node])
        outputs = itertools.count()
        return _fresh(Step(self, node), value, outputs)

    def _as_is(self, node: Node, args: Any, kwargs: Any) -> Any:
        """Run the op unchanged, on operands none of which is merged."""
        step = Step(self, node)
        value = self._named(node, step(*args, **kwargs))
        self._commit(step)
        return value

    def _by_rule(self, node: Node, args: Any, kwargs: Any, operands: list[TokenTensor]) -> Any:
        rule = rule_for(node.target)
        if rule is None:
            return self._unmerged(node, args, kwargs, operands, "no rule for this op")
        step = Step(self, node)
        try:
            value = rule(step, *args, **kwargs)
            _check_batch(value)
        except Lift as refusal:
            return self._unmerged(node, args, kwargs, operands, str(refusal))
        self._commit(step)
        return value

    def _commit(self, step: Step) -> None:
        """Keep what a step caused; a rule that gives up has caused nothing."""
        self.projections += step.projections
        self.unweighted += step.unweighted
        for call in step.calls:
            self.watch(*call)

    def _unmerged(
        self, node: Node, args: Any, kwargs: Any, operands: list[TokenTensor], why: str
    ) -> Any:
        """Lift every merged operand, then run the op unchanged."""
        self.lifts += [LiftEvent(node, x.origin, why) for x in operands if x.merged]
        self.undone.update(*(space.merges() for x in operands for space in x.spaces()))
        args, kwargs = pytree.tree_map_only(TokenTensor, self.lift, (args, kwargs))
        return self._as_is(node, args, kwargs)

    def lift(self, x: TokenTensor) -> TokenTensor:
        """The unmerged value, made once per value."""
        if not x.merged:
            return x
        if id(x.data) not in self._lifted:
            self._lifted[id(x.data)] = (x, moves.lift(x))
        # One tensor may be the value of two nodes whose dense ones have unlike strides.
        return replace(self._lifted[id(x.data)][1], origin=x.origin)

    def as_promised(self, x: TokenTensor) -> Tensor:
        """The dense tensor as it lies in memory in the dense program."""
        x = self.lift(x)
        data = x.data
        if self.labelling or not x.tainted or x.origin is None:
            return data
        return laid_out(data, x.origin.meta["val"])


def _fresh(step: Step, value: Any, outputs: Iterator[int]) -> Any:
    """A value, however its tensors are nested, with fresh dimensions."""
    if isinstance(value, Tensor):
        return TokenTensor(value, step.fresh_like(value, next(outputs)))
    if isinstance(value, list | tuple):
        return [_fresh(step, item, outputs) for item in value]
    return value


def _item(args: Any) -> Any:
    return args[0][args[1]]


def _check_batch(value: Any) -> None:
    """A merged result must still carry the axes along which assignments differ."""
    for x in pytree.tree_leaves(value):
        if isinstance(x, TokenTensor) and x.merged:
            axes = [atom.axis for dim in x.dims for atom in dim]
            if any(axes.count(axis) != 1 for space in x.spaces() for axis in space.batch):
                raise Lift("the op mixes the items of a batch, and each has its own groups")


def _taint(value: Any) -> Any:
    return pytree.tree_map_only(TokenTensor, lambda x: replace(x, tainted=True), value)


def _stamp(value: Any, node: Node) -> Any:
    return pytree.tree_map_only(TokenTensor, lambda x: replace(x, origin=node), value)


def _dims_of(value: Any) -> Any:
    return pytree.tree_map_only(TokenTensor, lambda x: x.dims, value)


def _with_dims(value: Any, dims: Any) -> Any:
    """Put recorded dimensions back on the tensors of a value."""
    if isinstance(value, Tensor):
        return TokenTensor(value, dims)
    if isinstance(value, list | tuple):
        return [_with_dims(item, own) for item, own in zip(value, dims, strict=True)]
    return value

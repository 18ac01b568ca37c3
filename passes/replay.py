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
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import Node
from torch.fx import traceback as fx_traceback

from pitome_fx.passes import moves
from pitome_fx.passes.align import align
from pitome_fx.passes.axes import Atom, Axis, Dim, Size, TokenTensor
from pitome_fx.passes.check import check_labels
from pitome_fx.passes.events import LiftEvent, ProjectEvent, UnweightedEvent
from pitome_fx.passes.failures import failing_in
from pitome_fx.passes.functional import RUN_AS
from pitome_fx.passes.layout import laid_out
from pitome_fx.passes.operands import value_operands
from pitome_fx.passes.outputs import dense_outputs
from pitome_fx.passes.rule import Lift, rule_for
from pitome_fx.passes.sizes import follow
from pitome_fx.passes.treatment import Treatment, Treatments


@dataclass
class Labels:
    """Identities of the dense program's dimensions: per node, and the axes first seen there."""

    dims: dict[Node, Any] = field(default_factory=dict)
    axes: dict[tuple[Node, int, int], Axis] = field(default_factory=dict)


aten = torch.ops.aten

STRIDED = (
    aten.as_strided.default,
    aten.view_as_complex.default,
    aten.view.dtype,
    aten.take_along_dim.default,
)
"""Ops whose result depends on the strides of their operand, or that take a view of it."""

Hook = Callable[["Replay", Node, Any], Any]
Watch = Callable[[Any, Any, Any], None]


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
    """

    def __init__(
        self,
        graph: torch.fx.GraphModule,
        constant: frozenset[Node],
        labels: Labels | None = None,
        after: Hook = lambda replay, node, value: value,
        treatments: Treatments | None = None,
        watch: Watch = lambda op, args, kwargs: None,
    ) -> None:
        self.graph = graph
        self.constant = constant
        self.labelling = labels is None
        self.labels = Labels() if labels is None else labels
        self.after = after
        self.treatments = treatments or Treatments()
        self.watch = watch
        self.env: dict[Node, Any] = {}
        self.lifts: list[LiftEvent] = []
        self.projections: list[ProjectEvent] = []
        self.unweighted: list[UnweightedEvent] = []
        self.undone: set[int] = set()
        self.replaced: set[Node] = set()
        self._lifted: dict[int, tuple[TokenTensor, TokenTensor]] = {}
        self.brought: dict[Any, tuple[TokenTensor, TokenTensor, TokenTensor]] = {}

    def run(self, *inputs: Any) -> Any:
        """Replay on the placeholders' values; returns the outputs, dense as in the program."""
        feed = iter(inputs)
        stage = "detect" if self.labelling else "rewrite"
        for node in self.graph.graph.nodes:
            with failing_in(stage, node):
                if node.op == "output":
                    return dense_outputs(self, node)
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
            return self._named(node, _attribute(self.graph, str(node.target)))
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


class Step:
    """One node being replayed: what a token rule works with.

    Attributes:
        projections, unweighted, calls: what the rule has brought along, left unweighted and run.
            They count when it succeeds, and are dropped where it gives up.
    """

    def __init__(self, replay: Replay, node: Node) -> None:
        self.replay = replay
        self.node = node
        self.projections: list[ProjectEvent] = []
        self.unweighted: list[UnweightedEvent] = []
        self.calls: list[tuple[Any, Any, Any]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the node's own op; TokenTensors stand for their data."""
        if self.replay.labelling:
            return self.node.meta.get("val")
        # What was merged or unmerged has other strides than the tensor that a view was taken of,
        # and an op that no rule knows may read memory too, or ask for what is contiguous.
        if self.node.target in STRIDED or rule_for(self.node.target) is None:
            args, kwargs = pytree.tree_map_only(
                TokenTensor,
                lambda x: x if x.merged else self.replay.as_promised(x),
                (args, kwargs),
            )
        viewed = self.node.target == aten.view.default and args[0].tainted
        return self.run(aten.reshape.default if viewed else self.node.target, *args, **kwargs)

    def run(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Run another op; for merged operands only (labelling executes nothing)."""
        self.calls.append((op, args, kwargs))
        args, kwargs = pytree.tree_map_only(TokenTensor, lambda x: x.data, (args, kwargs))
        return RUN_AS.get(op, op)(*args, **kwargs)

    def note_projection(self, x: TokenTensor, dim: int, target: Dim, why: str) -> None:
        """A dimension of an operand is merged along."""
        self.projections.append(ProjectEvent(self.node, x.origin, why, x.dims, dim, target))

    def note_unweighted(self, keys: Dim) -> None:
        """Each group of these keys counts as one token."""
        self.unweighted.append(UnweightedEvent(self.node, keys))

    def treatment(self, x: TokenTensor) -> Treatment:
        """How an operand of this op is merged along."""
        return self.replay.treatments.of(self.node, x.origin)

    @property
    def is_proportional(self) -> bool:
        """Does each group count as many times as it has members?"""
        return self.node not in self.replay.treatments.uncounted

    def laid_out(self, x: TokenTensor) -> TokenTensor:
        """x with the strides of the dense program, for an op whose result takes its layout."""
        return x if x.merged else replace(x, data=self.replay.as_promised(x))

    @property
    def value(self) -> Any:
        """What the node yields in the dense program, as recorded."""
        return self.node.meta["val"]

    def fresh(self, dim: int, size: Size, *, weak: bool = False, output: int = 0) -> Dim:
        """A dimension first seen here. The same node gives the same axis in every replay."""
        if isinstance(size, int) and size == 1:
            return ()
        key = (self.node, output, dim)
        axes = self.replay.labels.axes
        if key not in axes:
            axes[key] = Axis(size, weak or self.node in self.replay.constant)
        return (Atom(axes[key]),)

    def fresh_like(self, value: Tensor, output: int = 0) -> tuple[Dim, ...]:
        """Fresh dimensions for a whole tensor."""
        return tuple(self.fresh(d, size, output=output) for d, size in enumerate(value.shape))

    def align(
        self, *operands: TokenTensor, trailing: int = 0
    ) -> tuple[list[TokenTensor], tuple[Dim, ...]]:
        """Operands that broadcast, in common token spaces, and the result's dimensions."""
        return align(self, operands, trailing)


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


def _attribute(module: torch.nn.Module, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module

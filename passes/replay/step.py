"""One node being replayed: what a token rule works with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import Node

from pitome_fx.passes.aten.families import STRIDED
from pitome_fx.passes.capture.functional import RUN_AS
from pitome_fx.passes.replay.events import ProjectEvent, UnweightedEvent
from pitome_fx.passes.replay.labels import Labels
from pitome_fx.passes.replay.treatment import Treatment, Treatments
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import Atom, Dim, TokenTensor
from pitome_fx.passes.tokens.rule import rule_for
from pitome_fx.passes.tokens.sizes import Size, settled

aten = torch.ops.aten


class Interpreter(Protocol):
    """What a step asks of the replay that it belongs to.

    Attributes:
        labelling: nothing is executed; results are read off the recorded metadata.
        labels: dimension identities, to which a labelling run adds.
        constant: nodes that depend on parameters, buffers and constants alone.
        treatments: how operands are merged along.
        brought: operands that were merged along already, with what came of them.
    """

    labelling: bool
    labels: Labels
    constant: frozenset[Node]
    treatments: Treatments
    brought: dict[Any, tuple[TokenTensor, TokenTensor, TokenTensor]]

    def as_promised(self, x: TokenTensor) -> Tensor:
        """The dense tensor as it lies in memory in the dense program."""


class Step:
    """One node being replayed: what a token rule works with.

    Attributes:
        projections, unweighted, calls: what the rule has brought along, left unweighted and run.
            They count when it succeeds, and are dropped where it gives up.
    """

    def __init__(self, replay: Interpreter, node: Node) -> None:
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
        size = settled(size)
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

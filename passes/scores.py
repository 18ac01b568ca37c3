"""What is known of scores: products of queries and keys, on their way to the values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from pitome_fx.passes.axes import Dim
from pitome_fx.passes.marks import Mark
from pitome_fx.passes.operands import SAME_VALUES
from pitome_fx.passes.products import Factor

aten = torch.ops.aten

SDPA = aten.scaled_dot_product_attention.default
SOFTMAX = (aten.softmax.int, aten._softmax.default)
LOG_SOFTMAX = (aten.log_softmax.int, aten._log_softmax.default)
EXPONENTIAL = (*SOFTMAX, aten.exp.default, aten.exp2.default)
SCALING = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)
ALIKE = (*SAME_VALUES, aten.dropout.default)


@dataclass(frozen=True)
class Meeting:
    """A tensor that meets scores or weights, and is none of them.

    Attributes:
        scores: the operands that are scores.
        dims: the marked dimensions of what comes of it.
        weighing: it comes after a softmax or an exponential.
    """

    operand: Node
    consumer: Node
    scores: tuple[Node, ...]
    dims: tuple[Dim, ...]
    weighing: bool


@dataclass(frozen=True)
class Scores:
    """What is known of scores, or of weights, at one node.

    Attributes:
        origins: the products they come from; or a softmax of whose scores nothing is known.
        meetings: what met them on the way.
        softmaxes: those on the way.
        normalised: the marks over which a softmax runs on every way.
        weighing: a softmax or an exponential is on the way.
        linear: nothing but scales and changes of layout are on the way.
        oddities: ops on the way that are not understood.
    """

    origins: frozenset[Node]
    meetings: tuple[Meeting, ...] = ()
    softmaxes: tuple[Node, ...] = ()
    normalised: frozenset[Mark] = frozenset()
    weighing: bool = False
    linear: bool = True
    oddities: tuple[Node, ...] = ()

    @property
    def products(self) -> frozenset[Node]:
        """Those of the origins that are products."""
        return self.origins.difference(self.softmaxes)


@dataclass(frozen=True)
class Weighing:
    """A product of weights and values, summed over keys.

    Attributes:
        scores: the operands that are scores.
        dims: the marked dimensions of the weights.
        keys: the marks of the dimension summed over.
        values: the other factor.
    """

    node: Node
    weights: Scores
    dims: tuple[Dim, ...]
    keys: frozenset[Mark]
    values: Factor

"""What is known of scores: products of queries and keys, on their way to the values."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from pitome_fx.passes.detect.marks import Mark
from pitome_fx.passes.detect.products import Factor
from pitome_fx.passes.tokens.dims import Dim


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

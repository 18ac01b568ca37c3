"""How each operand that meets merged tokens is merged along: the answer that detection ends with.

Most are averaged over the members of a group. Masks and biases are not: a padding mask has one
value for all members where merging keeps padding apart, and a bias on keys counts by what a whole
group weighs. What can be brought along in no way is refused, and the tokens are unmerged.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from torch.fx import Node


class How(enum.Enum):
    """What a group has of an operand that its members have."""

    MEAN = "the mean over the members"
    MEMBER = "the value of any member: all agree, where merging keeps this padding apart"
    WEIGHT = "the logarithm of Σ exp over the members, along the keys"
    NOTHING = "nothing: it is a mask that hides nothing"


@dataclass(frozen=True)
class Treatment:
    """How one operand of one op is merged along.

    Attributes:
        kinds: number of the two kinds of tokens that the operand tells apart (padding and others);
            equal numbers, equal values.
        one_row: it is the same for every query.
        learned: its values are learned, and so hide no key.
        refusal: why it cannot be merged along, "" if it can.
        until_summed: what has a value for each key after a bias was added, up to where the keys
            are summed over: the bias counts by ``WEIGHT`` if none of that is unmerged.
    """

    how: How = How.MEAN
    kinds: int | None = None
    one_row: bool = False
    learned: bool = False
    refusal: str = ""
    until_summed: frozenset[Node] = frozenset()


@dataclass(frozen=True)
class Treatments:
    """Those of all operands of a program.

    Attributes:
        edges: (consumer, operand) → how; the mean for all others.
        kinds: the number of the kinds that each operand which merging is told of tells apart.
        uncounted: attention in which each group counts as one token (not proportional).
    """

    edges: Mapping[tuple[Node, Node], Treatment] = field(default_factory=dict)
    kinds: Mapping[Node, int] = field(default_factory=dict)
    uncounted: frozenset[Node] = frozenset()

    def of(self, consumer: Node, operand: Node | None) -> Treatment:
        """How an operand is merged along where this op consumes it."""
        return MEAN if operand is None else self.edges.get((consumer, operand), MEAN)

    def unspoiled(self, unmerged: Set[Node | None]) -> Treatments:
        """The same, but for biases of which a value for each key was unmerged.

        The members of a group would then all weigh alike.
        """
        edges = {
            edge: replace(own, how=How.MEAN) if own.until_summed & unmerged else own
            for edge, own in self.edges.items()
        }
        return self if edges == self.edges else replace(self, edges=edges)


MEAN = Treatment()

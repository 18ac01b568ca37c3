"""Joins neighbouring atoms: few calls, each kind of region compiled once.

Pairs of neighbours that occur often are joined again and again, as in the grammar compression of
Larsson and Moffat ("Off-line dictionary-based compression", 2000). A pair that always occurs
together costs no further compile; another costs what then is compiled twice, and saves calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Part:
    """A run of atoms.

    Attributes:
        kind: equal for those that are alike.
        cost: of compiling it, in nodes.
        start, stop: of its atoms.
    """

    kind: Hashable
    cost: int
    start: int
    stop: int

    def joined(self, other: Part) -> Part:
        """With the one that follows."""
        return Part((self.kind, other.kind), self.cost + other.cost, self.start, other.stop)


def join(kinds: Sequence[Hashable], costs: Sequence[int], most_calls: int) -> list[tuple[int, int]]:
    """The regions, as ranges of atoms.

    Args:
        kinds: of the atoms; equal for those that are alike.
        costs: of compiling each atom, in nodes.
        most_calls: how many regions may run, if joining what is alike can bring it so far.
    """
    parts = [
        Part(kind, cost, i, i + 1) for i, (kind, cost) in enumerate(zip(kinds, costs, strict=True))
    ]
    while len(parts) > 1:
        pair, cost = _cheapest(parts)
        if cost > 0 and len(parts) <= most_calls:
            break
        parts = _replace(parts, pair)
    return [(part.start, part.stop) for part in parts]


Pair = tuple[Hashable, Hashable]


def _cheapest(parts: Sequence[Part]) -> tuple[Pair, int]:
    """The pair that is cheapest to join for the calls that it saves, and what it costs."""
    counts = Counter(part.kind for part in parts)
    costs = {part.kind: part.cost for part in parts}
    ranked = (
        ((cost / saved, -saved), pair, cost)
        for pair, saved in _pairs(parts).items()
        for cost in (_cost(pair, saved, counts, costs),)
    )
    _, pair, cost = min(ranked, key=lambda item: item[0])
    return pair, cost


def _cost(pair: Pair, saved: int, counts: Counter[Hashable], costs: dict[Hashable, int]) -> int:
    """Nodes to be compiled beyond what is compiled without joining."""
    first, second = pair
    added = costs[first] + costs[second]
    if first == second:
        return added - (costs[first] if counts[first] == 2 * saved else 0)
    gone = sum(costs[kind] for kind in pair if counts[kind] == saved)
    return added - gone


def _pairs(parts: Sequence[Part]) -> Counter[Pair]:
    """How often each pair of neighbours can be joined."""
    found: Counter[Pair] = Counter()
    last: Pair | None = None
    for first, second in pairwise(parts):
        pair = (first.kind, second.kind)
        if pair == last and first.kind == second.kind:
            last = None  # Of three alike in a row two can be joined.
            continue
        found[pair] += 1
        last = pair
    return found


def _replace(parts: Sequence[Part], pair: Pair) -> list[Part]:
    found: list[Part] = []
    i = 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i].kind, parts[i + 1].kind) == pair:
            found.append(parts[i].joined(parts[i + 1]))
            i += 2
        else:
            found.append(parts[i])
            i += 1
    return found

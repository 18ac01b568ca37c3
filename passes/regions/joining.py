"""Joins neighbouring atoms: few calls, each kind of region compiled once.

Pairs of neighbours that occur often are joined again and again, as in the grammar compression of
Larsson and Moffat ("Off-line dictionary-based compression", 2000). A pair that always occurs
together costs no further compile; another costs what then is compiled twice, and saves calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Pair = tuple[int, int]


@dataclass(frozen=True)
class Part:
    """A run of atoms.

    Attributes:
        kind: equal for those that are alike.
        cost: of compiling it, in nodes.
        start, stop: of its atoms.
    """

    kind: int
    cost: int
    start: int
    stop: int


def join(kinds: Sequence[int], costs: Sequence[int], most_calls: int) -> list[tuple[int, int]]:
    """The regions, as ranges of atoms.

    Args:
        kinds: of the atoms; equal for those that are alike.
        costs: of compiling each atom, in nodes.
        most_calls: how many regions may run, if joining what is alike can bring it so far.
    """
    parts = [
        Part(kind, cost, i, i + 1) for i, (kind, cost) in enumerate(zip(kinds, costs, strict=True))
    ]
    kinds_so_far = max(kinds, default=0) + 1
    while len(parts) > 1:
        pair, cost = _cheapest(parts)
        if cost > 0 and len(parts) <= most_calls:
            break
        parts = _joined(parts, pair, kinds_so_far)
        kinds_so_far += 1
    return [(part.start, part.stop) for part in parts]


def _cheapest(parts: Sequence[Part]) -> tuple[Pair, int]:
    """The pair that is cheapest to join for the calls that it saves, and what it costs."""
    counts = Counter(part.kind for part in parts)
    costs = {part.kind: part.cost for part in parts}
    saved = _pairs(parts)
    cost = {pair: _cost(pair, calls, counts, costs) for pair, calls in saved.items()}
    pair = min(saved, key=lambda pair: (cost[pair] / saved[pair], -saved[pair]))
    return pair, cost[pair]


def _cost(pair: Pair, saved: int, counts: Counter[int], costs: dict[int, int]) -> int:
    """Nodes to be compiled beyond what is compiled without joining."""
    first, second = pair
    if first == second:
        gone = costs[first] if counts[first] == 2 * saved else 0
    else:
        gone = sum(costs[kind] for kind in pair if counts[kind] == saved)
    return costs[first] + costs[second] - gone


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


def _joined(parts: Sequence[Part], pair: Pair, kind: int) -> list[Part]:
    """With every such pair as one part of a new kind."""
    found: list[Part] = []
    left = list(reversed(parts))
    while left:
        part = left.pop()
        if left and (part.kind, left[-1].kind) == pair:
            other = left.pop()
            part = Part(kind, part.cost + other.cost, part.start, other.stop)
        found.append(part)
    return found

"""How many tokens a merge leaves: one closed form, for token counts known or symbolic.

Counts are not nested from block to block but written in the number T of unprotected tokens that a
stream begins with, T_i = ⌈T·c_i/q⌉ with integers c_i = ⌈c_(i−1)·p_i/q⌉ and q = 10⁴, p_i/q being the
keep ratio. Nested floors would have to be proved anew at every block where T is symbolic, and a
form of its own for known counts would let numbers depend on which length was compiled first.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from pitome_fx.passes.tokens.sizes import Size

Q = 10**4


@dataclass(frozen=True)
class Share:
    """A block keeps p/q of its tokens.

    Attributes:
        p: numerator of the keep ratio, from 1 to q; at least q/2 where half of the tokens may go.
        before: c_(i−1), in 1/q of the tokens that the stream begins with.
    """

    p: int
    before: int = Q

    @property
    def after(self) -> int:
        """c_i."""
        return -(-self.before * self.p // Q)

    def following(self, earlier: Amount) -> Share:
        """The same share in a block that comes after an earlier one of its stream."""
        assert isinstance(earlier, Share)
        return replace(self, before=earlier.after)

    def counts(self, tokens: Size) -> tuple[Size, Size]:
        """T_(i−1) and T_i of T tokens; one is left at least, and half of them if p ≥ q/2."""
        return _ceil(tokens, self.before), _ceil(tokens, self.after)

    def decide(self, tokens: Size) -> None:
        """There is one form for all counts."""


@dataclass(frozen=True)
class Number:
    """A block removes r tokens, or where they are fewer than 2·r only half of them.

    Attributes:
        earlier: how many blocks of the stream removed r tokens before.
        to_one: whether it removes all but one rather than half where there are too few.
    """

    r: int
    earlier: int = 0
    to_one: bool = False

    def following(self, earlier: Amount) -> Number:
        """The same number in a block that comes after an earlier one of its stream."""
        assert isinstance(earlier, Number)
        return replace(self, earlier=earlier.earlier + 1)

    def counts(self, tokens: Size) -> tuple[Size, Size]:
        """T_(i−1) and T_i of T tokens."""
        return self._left(tokens, self.earlier), self._left(tokens, self.earlier + 1)

    def decide(self, tokens: Size) -> None:
        """Guard a symbolic count to be large enough for r tokens to go, or too small."""
        bool(tokens >= self._enough(self.earlier + 1))

    def _enough(self, merges: int) -> int:
        """The fewest tokens of which every merge removes r."""
        return merges * self.r + 1 if self.to_one else (merges + 1) * self.r

    def _left(self, tokens: Size, merges: int) -> Size:
        """T_i = max_j ⌈(T − j·r) / 2^(i−j)⌉: first r at a time, then half, as T_i only falls."""
        if statically_known_true(tokens >= self._enough(merges)):
            return tokens - merges * self.r
        if self.to_one:
            return torch.sym_max(tokens - merges * self.r, torch.sym_min(tokens, 1))
        left: Any = tokens - merges * self.r
        for halved in range(1, merges + 1):
            removed = (merges - halved) * self.r
            left = torch.sym_max(left, _halved(tokens - removed, halved))
        return left


Amount = Share | Number


def chained(amounts: Iterable[tuple[Hashable, Amount]]) -> list[Amount]:
    """Amounts by stream, in graph order, each after those that its stream has before it."""
    last: dict[Hashable, Amount] = {}
    result = []
    for stream, amount in amounts:
        if stream in last:
            amount = amount.following(last[stream])
        last[stream] = amount
        result.append(amount)
    return result


def _ceil(tokens: Size, part: int) -> Size:
    """⌈tokens · part / q⌉ without a negative operand: engines divide integers towards zero."""
    exact = Fraction(part, Q)
    return (tokens * exact.numerator + exact.denominator - 1) // exact.denominator


def _halved(tokens: Size, times: int) -> Size:
    return (tokens + 2**times - 1) // 2**times


def at_least(tokens: Size, lowest: int) -> Size:
    """The count, but no less than ``lowest``; the plain count where it is known to be enough."""
    if statically_known_true(tokens >= lowest):
        return tokens
    return torch.sym_max(tokens, lowest)

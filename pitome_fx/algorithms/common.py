"""Steps that the matching algorithms share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from pitome_fx.algorithms.registry import Match, Tokens


def unit(metric: Tensor) -> Tensor:
    """Rows of (B, T, D) scaled to length 1, so that their products are cosines."""
    return torch.nn.functional.normalize(metric, dim=-1)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` (B, n) of x (B, T, D), as (B, n, D)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def joins(groups: int, target: Tensor) -> Tensor:
    """(B, N', k) bool: does the moved token (last axis) join the group?"""
    group = torch.arange(groups, device=target.device)
    return group.view(1, -1, 1) == target.unsqueeze(1)


def rank(x: Tensor, descending: bool = False) -> Tensor:
    """Place of each entry in the order of the last axis, equals by position."""
    order = torch.argsort(x, dim=-1, descending=descending, stable=True)
    return torch.argsort(order, dim=-1, stable=True)


def of_units(energy: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The ``scores=`` of an algorithm that ranks by ``energy(units, tokens, **parameters)``."""
    return lambda tokens, **parameters: energy(unit(tokens.metric), tokens, **parameters)


def importance_of(tokens: Tokens, **_: Any) -> Tensor:
    """The ``scores=`` of an algorithm that ranks by importance (B, T), whatever its parameters."""
    assert tokens.importance is not None
    return tokens.importance


def falling_margin(tokens: Tokens, margin: float) -> float:
    """m = margin − margin·i/L: deeper blocks count more tokens as similar (PiToMe, Eq. 4)."""
    return margin - margin * tokens.block / tokens.blocks


def total_energy(pairwise: Tensor, padding: Tensor | None) -> Tensor:
    """Mean over tokens of a pairwise term (B, T, T) → (B, T); padding contributes nothing."""
    if padding is not None:
        pairwise = pairwise.masked_fill(padding.unsqueeze(1), 0)
    return pairwise.mean(-1)


def mean_cosine(units: Tensor, padding: Tensor | None) -> Tensor:
    """Mean cosine (B, T) of each token to all of them, without the (B, T, T) cosines."""
    if padding is not None:
        units = units.masked_fill(padding.unsqueeze(-1), 0)
    return (units @ units.mean(1).unsqueeze(-1)).squeeze(-1)


def merge_order(score: Tensor, padding: Tensor | None) -> Tensor:
    """Token indices (B, T) by decreasing score, ties by position, padding before everything else.

    An odd padding token comes last: the others then fill an even number of leading places, so an
    alternating split of the order gives every token a partner of its own kind, with static shapes.
    """
    if padding is not None:
        place = torch.arange(padding.shape[-1], device=padding.device)
        last = highest(torch.where(padding, place, -1), -1).unsqueeze(-1)
        odd_one_out = (place == last) & (padding.sum(-1, keepdim=True) % 2 == 1)
        score = score.masked_fill(padding, torch.inf).masked_fill(odd_one_out, -torch.inf)
    return torch.argsort(score, dim=-1, descending=True, stable=True)


def every_other(order: Tensor) -> tuple[Tensor, Tensor]:
    """The 1st, 3rd, 5th… and the 2nd, 4th, 6th… of an order (B, T)."""
    # Slices with steps are views, of which Inductor asks whether T is even; and of symbolic
    # lengths T − T // 2 and T // 2 are known to add up to T.
    half = order.shape[1] // 2
    first = torch.arange(order.shape[1] - half, device=order.device) * 2
    second = torch.arange(half, device=order.device) * 2 + 1
    return order.index_select(1, first), order.index_select(1, second)


def cosines(units: Tensor, a: Tensor, b: Tensor, padding: Tensor | None) -> Tensor:
    """Cosines (B, |a|, |b|) between the tokens a and b; −∞ between padding and a real token."""
    return within_kinds(take(units, a) @ take(units, b).transpose(1, 2), a, b, padding)


def within_kinds(scores: Tensor, a: Tensor, b: Tensor, padding: Tensor | None) -> Tensor:
    """Scores (B, |a|, |b|) of tokens a and b, −∞ between padding and a real token."""
    if padding is None:
        return scores
    mixed = padding.gather(1, a).unsqueeze(2) != padding.gather(1, b).unsqueeze(1)
    return scores.masked_fill(mixed, -torch.inf)


def ordered_split(energy: Tensor, units: Tensor, tokens: Tokens) -> Match:
    """Merge k of the 2k tokens of highest energy into the other k (PiToMe, Algorithm 1).

    In order of decreasing energy the 1st, 3rd, 5th… each join the most similar one among the
    2nd, 4th, 6th…; all other tokens are protected.
    """
    k, order = tokens.k, merge_order(energy, tokens.padding)
    (a, b), rest = every_other(order[:, : 2 * k]), order[:, 2 * k :]
    best = nearest(cosines(units, a, b, tokens.padding))
    return Match(torch.cat([rest, b], 1), a, rest.shape[1] + best)


def best_edges(sides: tuple[Tensor, Tensor], scores: Tensor, tokens: Tokens) -> Match:
    """Every other token of an order proposes its best among those between; the k best edges merge.

    Padding, which the order has first, merges before anything else.

    Args:
        sides: ``every_other`` of an order as of ``merge_order``.
        scores: (B, ⌈T/2⌉, ⌊T/2⌋) of edges from its 1st, 3rd, 5th… to its 2nd, 4th, 6th… token.
    """
    a, b = sides
    best, strength = nearest(scores), highest(scores, -torch.inf)
    if tokens.padding is not None:
        paired = tokens.padding.gather(1, a) & (strength > -torch.inf)
        strength = strength.masked_fill(paired, torch.inf)
    by_strength = torch.argsort(strength, dim=-1, descending=True, stable=True)
    merging, staying = by_strength[:, : tokens.k], by_strength[:, tokens.k :]
    kept = torch.cat([a.gather(1, staying), b], 1)
    return Match(kept, a.gather(1, merging), staying.shape[1] + best.gather(1, merging))


def facing_edges(sides: tuple[Tensor, Tensor], strength: Tensor, tokens: Tokens) -> Match:
    """The 1st of an order may join the 2nd, the 3rd the 4th…; the k strongest pairs do.

    Args:
        sides: ``every_other`` of it.
        strength: (B, ⌈T/2⌉) of each pair, or (1, ⌈T/2⌉) of those of every item.
    """
    a, b = sides
    place = torch.arange(a.shape[1], device=a.device)
    facing = place.unsqueeze(1) == place[: b.shape[1]]
    scores = torch.where(facing, strength.expand(a.shape).unsqueeze(2), -torch.inf)
    return best_edges(sides, within_kinds(scores, a, b, tokens.padding), tokens)


def keep_highest(score: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """The T − k tokens of highest score, and the k others: (B, T'), (B, k), both by score.

    Of padding one token is kept, for the others to join; the rest of it goes first.
    """
    padding = tokens.padding
    if padding is not None:
        place = torch.arange(padding.shape[-1], device=padding.device)
        first = highest(torch.where(padding, -place, -padding.shape[-1]), 0).unsqueeze(-1)
        leader = padding & (place == -first)
        score = score.masked_fill(padding, -torch.inf).masked_fill(leader, torch.inf)
    order = torch.argsort(score, dim=-1, descending=True, stable=True)
    left = order.shape[1] - tokens.k
    return order[:, :left], order[:, left:]


def every_cosine(units: Tensor, padding: Tensor | None) -> Tensor:
    """Cosines (B, T, T) of each token to all others; −∞ to itself, and between the kinds.

    Those of i to j and of j to i are one number: that two tokens are each other's nearest must not
    hang on rounding.
    """
    place = torch.arange(units.shape[1], device=units.device)
    everywhere = place.expand(units.shape[:2])
    cos = cosines(units, everywhere, everywhere, padding)
    cos = torch.maximum(cos, cos.transpose(1, 2))
    return cos.masked_fill(place.unsqueeze(1) == place, -torch.inf)


def nearest(scores: Tensor) -> Tensor:
    """Index of the highest score in each row of (B, n, m), the first of equals; m may be 0."""
    return _not_empty(scores, -torch.inf).argmax(-1)


def highest(values: Tensor, lowest: float) -> Tensor:
    """The highest entry of each row of (…, m), ``lowest`` where m is 0."""
    return _not_empty(values, lowest).amax(-1)


def _not_empty(values: Tensor, last: float) -> Tensor:
    """The rows, with one more entry where they may have none.

    A symbolic number of tokens may turn out to leave nothing to merge.
    """
    if statically_known_true(values.shape[-1] > 0):
        return values
    return torch.cat([values, values.new_full((*values.shape[:-1], 1), last)], -1)

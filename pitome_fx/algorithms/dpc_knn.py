"""Density-peak clustering (Du et al., 2016), as used for tokens by TCFormer and AiluRus."""

import torch
from torch import Tensor

from pitome_fx.algorithms.common import highest, keep_highest, nearest, rank, take, within_kinds
from pitome_fx.algorithms.parameters import Count
from pitome_fx.algorithms.registry import Match, Tokens, register


def once(blocks: int) -> range:
    """One block alone, a quarter of the way in: what it leaves serves all later ones."""
    return range(blocks // 4, blocks // 4 + 1)


def peaks(distance: Tensor, neighbours: int) -> Tensor:
    """ρ·δ (B, T), highest where tokens are dense and far from denser ones.

    ρ_i = exp(−mean of the squared distances to the nearest tokens), δ_i the distance to the
    nearest token of higher density (the largest of all at the peak).

    Args:
        distance: (B, T, T), infinite between padding and real tokens.
    """
    near = distance.sort(dim=-1, stable=True).values[..., 1 : neighbours + 1]
    known = near.isfinite()
    squares = torch.where(known, near, 0).square().sum(-1) / known.sum(-1).clamp(min=1)
    density = torch.exp(-squares)
    place = rank(density, descending=True)
    higher = place.unsqueeze(1) < place.unsqueeze(2)
    gap = -highest(torch.where(higher, -distance, -torch.inf), -torch.inf)
    farthest = highest(torch.where(distance.isfinite(), distance, 0).flatten(1), 0).unsqueeze(-1)
    return density * torch.minimum(gap, farthest)


def clustered(distance: Tensor, tokens: Tokens, neighbours: int) -> Match:
    """The T − k highest peaks stay; the others join their nearest. Arguments as of ``peaks``."""
    kept, moved = keep_highest(peaks(distance, neighbours), tokens)
    rows = take(distance, moved)
    return Match(kept, moved, nearest(-rows.gather(2, kept.unsqueeze(1).expand(*moved.shape, -1))))


def distances(tokens: Tokens) -> Tensor:
    """Euclidean distances (B, T, T) over √D, infinite between padding and real tokens."""
    x = tokens.metric
    squares = x.square().sum(-1)
    product = x @ x.transpose(1, 2)
    apart = (squares.unsqueeze(1) + squares.unsqueeze(2) - 2 * product).clamp(min=0) / x.shape[-1]
    # One number for both directions, so that no order hangs on rounding.
    apart = torch.maximum(apart, apart.transpose(1, 2))
    place = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
    return -within_kinds(-apart.sqrt(), place, place, tokens.padding)


def density_peaks(tokens: Tokens, neighbours: int) -> Tensor:
    """ρ·δ (B, T) of distances between features."""
    return peaks(distances(tokens), neighbours)


@register("dpc-knn", metric="hidden", removes="all but one", blocks=once, scores=density_peaks)
def dpc_knn(tokens: Tokens, *, neighbours: Count = 5) -> Match:
    """Clusters around density peaks, made once and of any number."""
    return clustered(distances(tokens), tokens, neighbours)

"""PiToMe as released for text models: Gaussian-kernel energy and a split into halves."""

import math

import torch
from torch import Tensor

from pitome_fx.algorithms.common import (
    cosines,
    merge_order,
    nearest,
    of_units,
    total_energy,
    unit,
)
from pitome_fx.algorithms.parameters import Margin
from pitome_fx.algorithms.registry import Match, Tokens, register


def kernel_energy(units: Tensor, tokens: Tokens, margin: float) -> Tensor:
    """mean_j exp(−((1 − cos)/σ)²/2) / (σ√(2π)) with σ = 1 − m, m = margin − 0.25·i/L: (B, T)."""
    sigma = 1 - (margin - 0.25 * tokens.block / tokens.blocks)
    cos = units @ units.transpose(1, 2)
    kernel = torch.exp(-(((1 - cos) / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
    return total_energy(kernel, tokens.padding)


@register(
    "pitome-text", blocks=lambda blocks: range(min(3, blocks)), scores=of_units(kernel_energy)
)
def pitome_text(tokens: Tokens, *, margin: Margin = 0.9) -> Match:
    """Of the 2k tokens of highest energy the higher half joins the lower half."""
    units, padding, k = unit(tokens.metric), tokens.padding, tokens.k
    order = merge_order(kernel_energy(units, tokens, margin), padding)
    mergeable, rest = order[:, : 2 * k], order[:, 2 * k :]
    if padding is not None:
        mergeable = _halves_of_each_kind(mergeable, padding)
    a, b = mergeable[:, :k], mergeable[:, k:]
    best = nearest(cosines(units, a, b, padding))
    return Match(torch.cat([rest, b], 1), a, rest.shape[1] + best)


def _halves_of_each_kind(mergeable: Tensor, padding: Tensor) -> Tensor:
    """Reorder (B, 2k) so that either half holds half of the padding and half of the real tokens."""
    is_padding = padding.gather(1, mergeable)
    place = torch.arange(mergeable.shape[1], device=mergeable.device)
    padded = is_padding.sum(-1, keepdim=True)
    middle = torch.where(is_padding, padded // 2, padded + (place.shape[0] - padded) // 2)
    by_half = torch.argsort((place >= middle).to(torch.int32), dim=-1, stable=True)
    return mergeable.gather(1, by_half)

"""Values of groups that an algorithm weighs itself, as the oracle computes them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pitome_fx.algorithms import Match, Weights
from pitome_fx.groups import first_members


class Combined(NamedTuple):
    """own·x_kept + mix·x_moved, of the groups present before a merge.

    Attributes:
        kept: (B, N') the representative of each group after it; moved: (B, k) all others.
        own: (B, N'); mix: (B, N', k).
    """

    kept: Tensor
    moved: Tensor
    own: Tensor
    mix: Tensor

    @staticmethod
    def of(weights: Weights, found: Match, front: int, back: int, kept: Tensor) -> Combined:
        """From what an algorithm says of unprotected tokens; the protected keep their values."""
        own = kept.new_ones(kept.shape, dtype=weights.own.dtype)
        own[:, front : kept.shape[1] - back] = weights.own
        mix = own.new_zeros((*kept.shape, found.moved.shape[1]))
        inner = mix[:, front : kept.shape[1] - back]
        if weights.mix.dim() == 3:
            inner.copy_(weights.mix)
        else:
            inner.scatter_(1, found.target.unsqueeze(1), weights.mix.unsqueeze(1))
        return Combined(kept, found.moved + front, own, mix)


def combined_in_groups(rows: Tensor, before: Tensor, after: Tensor, how: Combined) -> Tensor:
    """Every token gets the value of its group: (B, N, F) → (B, N, F).

    Args:
        before, after: (B, N) the group of each token before and after the merge.
    """

    def take(x: Tensor, index: Tensor) -> Tensor:
        return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))

    wide = torch.promote_types(rows.dtype, torch.float32)
    present = take(rows, first_members(before)).to(wide)
    terms = how.mix.to(wide).unsqueeze(-1) * take(present, how.moved).unsqueeze(1)
    terms = torch.where((how.mix != 0).unsqueeze(-1), terms, 0)
    values = take(present, how.kept) * how.own.to(wide).unsqueeze(-1) + terms.sum(2)
    return take(values, after).to(rows.dtype)


def attention_paid(
    queries: Tensor, keys: Tensor, size: Tensor, padding: Tensor | None, front: int
) -> Tensor:
    """What the first token, or where none is protected the mean of all, pays to each: (B, N).

    Args:
        queries: (B, H, N, D); keys: (B, G, N, D).
    """
    batch, heads, tokens, width = queries.shape
    keys = keys.repeat_interleave(heads // keys.shape[1], 1)
    count = size.to(keys.dtype)
    if front:
        asking = queries[:, :, :1]
    else:
        weight = count if padding is None else torch.where(padding, 0, count)
        share = (weight / weight.sum(1, keepdim=True).clamp(min=1)).reshape(batch, 1, tokens, 1)
        asking = (queries * share).sum(2, keepdim=True)
    scores = (asking * keys).sum(-1) / width**0.5 + count.log().unsqueeze(1)
    if padding is not None:
        scores = torch.where(padding.unsqueeze(1), torch.finfo(scores.dtype).min, scores)
    return scores.softmax(-1).mean(1)

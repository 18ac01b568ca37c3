"""Steps that the matching algorithms share."""

import torch
from torch import Tensor


def unit(metric: Tensor) -> Tensor:
    """Rows of (B, T, D) scaled to length 1, so that their products are cosines."""
    return torch.nn.functional.normalize(metric, dim=-1)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` (B, n) of x (B, T, D), as (B, n, D)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def total_energy(pairwise: Tensor, padding: Tensor | None) -> Tensor:
    """Mean over tokens of a pairwise term (B, T, T) → (B, T); padding contributes nothing."""
    if padding is not None:
        pairwise = pairwise.masked_fill(padding.unsqueeze(1), 0)
    return pairwise.mean(-1)


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


def cosines(units: Tensor, a: Tensor, b: Tensor, padding: Tensor | None) -> Tensor:
    """Cosines (B, |a|, |b|) between the tokens a and b; −∞ between padding and a real token."""
    scores = take(units, a) @ take(units, b).transpose(1, 2)
    if padding is not None:
        mixed = padding.gather(1, a).unsqueeze(2) != padding.gather(1, b).unsqueeze(1)
        scores = scores.masked_fill(mixed, -torch.inf)
    return scores


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
    if isinstance(values.shape[-1], int) and values.shape[-1] > 0:
        return values
    return torch.nn.functional.pad(values, (0, 1), value=last)

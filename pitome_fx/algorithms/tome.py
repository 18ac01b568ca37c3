"""ToMe, bipartite soft matching (Bolya et al., ICLR 2023, arXiv 2210.09461)."""

import torch
from torch import Tensor

from pitome_fx.algorithms.common import cosines, highest, merge_order, nearest, unit
from pitome_fx.algorithms.registry import Match, register


@register("tome")
def tome(
    metric: Tensor, size: Tensor, padding: Tensor | None, k: int, margin: float, alpha: float
) -> Match:
    """Tokens at even positions each propose their most similar odd one; the k best edges merge.

    With padding the alternation runs over the padding tokens first, then over the real ones, and
    padding merges before anything else. Margin and alpha have no part in it.
    """
    units = unit(metric)
    order = merge_order(torch.zeros_like(metric[..., 0]), padding)
    a, b = order[:, 0::2], order[:, 1::2]
    scores = cosines(units, a, b, padding)
    best, strength = nearest(scores), highest(scores, -torch.inf)
    if padding is not None:
        paired = padding.gather(1, a) & (strength > -torch.inf)
        strength = strength.masked_fill(paired, torch.inf)
    by_strength = torch.argsort(strength, dim=-1, descending=True, stable=True)
    merging, staying = by_strength[:, :k], by_strength[:, k:]
    kept = torch.cat([a.gather(1, staying), b], 1)
    return Match(kept, a.gather(1, merging), staying.shape[1] + best.gather(1, merging))

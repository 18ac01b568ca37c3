"""ToFu, token fusion (Kim et al., WACV 2024, arXiv 2312.01026)."""

import torch

from pitome_fx.algorithms.common import joins, take
from pitome_fx.algorithms.registry import Match, Tokens, Weights, register
from pitome_fx.algorithms.tome import tome


def fusion(tokens: Tokens, match: Match, *, pruned: float) -> Weights:
    """Moved tokens weigh nothing in early blocks; later a mean has its longest member's norm.

    MLERP: the size-weighted mean of a group, scaled to the largest norm among its members.
    """
    assert tokens.hidden is not None
    joining = joins(match.kept.shape[1], match.target)
    if tokens.block < pruned * tokens.blocks:
        return Weights(torch.ones_like(tokens.size.gather(1, match.kept)), 0.0 * joining)
    own, moving = tokens.size.gather(1, match.kept), tokens.size.gather(1, match.moved)
    share = joining * moving.unsqueeze(1)
    total = own + share.sum(-1)
    own, share = own / total, share / total.unsqueeze(-1)
    hidden = tokens.hidden.nan_to_num(0, 0, 0)
    kept, moved = take(hidden, match.kept), take(hidden, match.moved)
    mean = (own.unsqueeze(-1) * kept + share.to(kept.dtype) @ moved).norm(dim=-1)
    longest = kept.norm(dim=-1)
    if match.moved.shape[1]:
        members = (joining * moved.norm(dim=-1).unsqueeze(1)).amax(-1)
        longest = torch.maximum(longest, members)
    # A group of one keeps its value exactly.
    scale = torch.where(joining.any(-1) & (mean > 0), longest / mean, 1.0)
    return Weights(own * scale, share * scale.unsqueeze(-1))


@register("tofu", needs=["hidden"], weights=fusion)
def tofu(tokens: Tokens, *, pruned: float = 0.5) -> Match:
    """ToMe's pairs. In the first share ``pruned`` of the blocks the moved token is dropped."""
    return tome(tokens)

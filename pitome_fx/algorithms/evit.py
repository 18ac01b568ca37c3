"""EViT, fusing inattentive tokens (Liang et al., ICLR 2022, arXiv 2202.07800)."""

import torch

from pitome_fx.algorithms.common import importance_of, joins, keep_highest
from pitome_fx.algorithms.registry import Match, Tokens, Weights, register


def attention_weighted(tokens: Tokens, match: Match) -> Weights:
    """The mean of a group's tokens, each weighted by the attention that it gets."""
    assert tokens.importance is not None
    weight = tokens.importance.clamp(min=1e-12)
    own = weight.gather(1, match.kept)
    joining = joins(match.kept.shape[1], match.target)
    share = joining * weight.gather(1, match.moved).unsqueeze(1)
    total = own + share.sum(-1)
    return Weights(own / total, share / total.unsqueeze(-1))


@register(
    "evit",
    needs=["importance"],
    removes="all but one",
    weights=attention_weighted,
    scores=importance_of,
)
def evit(tokens: Tokens) -> Match:
    """The most important tokens stay; all others become one, which comes last.

    Of padding, which fuses by itself, the first token stays.
    """
    assert tokens.importance is not None
    kept, moved = keep_highest(tokens.importance, tokens)
    last = torch.full_like(moved, kept.shape[1] - 1)
    if tokens.padding is not None:
        # The first kept is padding where there is any; of padding alone all are.
        last = torch.where(tokens.padding.gather(1, moved), 0, last)
    return Match(kept, moved, last)

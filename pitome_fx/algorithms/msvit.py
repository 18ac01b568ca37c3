"""Multi-Scale and Token Mergence (Bian et al., 2023, arXiv 2306.04897)."""

from pitome_fx.algorithms.common import cosines, importance_of, keep_highest, nearest, unit
from pitome_fx.algorithms.registry import Match, Tokens, register


@register("msvit", needs=["importance"], removes="all but one", scores=importance_of)
def msvit(tokens: Tokens) -> Match:
    """The less important tokens merge into their most similar important one."""
    assert tokens.importance is not None
    kept, moved = keep_highest(tokens.importance, tokens)
    return Match(kept, moved, nearest(cosines(unit(tokens.metric), moved, kept, tokens.padding)))

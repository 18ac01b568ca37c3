"""MCTF, multi-criteria token fusion (Lee et al., CVPR 2024, arXiv 2403.10030)."""

from pitome_fx.algorithms.common import best_edges, cosines, every_other, unit
from pitome_fx.algorithms.parameters import Positive
from pitome_fx.algorithms.registry import Match, Tokens, register
from pitome_fx.algorithms.tome import as_they_come


@register("mctf", needs=["importance"])
def mctf(
    tokens: Tokens, *, t_sim: Positive = 1.0, t_info: Positive = 20.0, t_size: Positive = 40.0
) -> Match:
    """Edges weigh ((cos + 1)/2)^(1/t_sim) · (a_i·a_j)^(−1/t_info) · (s_i·s_j)^(−1/t_size).

    Similar tokens merge, that get little attention a and stand for few others. Of ToMe's split;
    the paper then matches a second time, from the other side.
    """
    assert tokens.importance is not None
    a, b = every_other(as_they_come(tokens))
    cos = cosines(unit(tokens.metric), a, b, tokens.padding)
    cost = tokens.importance.clamp(min=1e-12).log() / t_info + tokens.size.log() / t_size
    # In logarithms, so that no power of a small number vanishes.
    similar = ((cos.clamp(min=-1) + 1) / 2).clamp(min=1e-12).log() / t_sim
    scores = similar - cost.gather(1, a).unsqueeze(2) - cost.gather(1, b).unsqueeze(1)
    return best_edges((a, b), scores.masked_fill(cos == -float("inf"), -float("inf")), tokens)

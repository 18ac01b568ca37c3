"""PiToMe as released for vision: best edges in the first half of the blocks, then its own split."""

from pitome_fx.algorithms.common import of_units
from pitome_fx.algorithms.parameters import Margin, Weight
from pitome_fx.algorithms.pitome_bsm import pitome_bsm
from pitome_fx.algorithms.pitome_elu import elu_energy, pitome_elu
from pitome_fx.algorithms.registry import Match, Tokens, register


@register("pitome-vision", scores=of_units(elu_energy))
def pitome_vision(tokens: Tokens, *, margin: Margin = 0.75, alpha: Weight = 1.0) -> Match:
    """``pitome-bsm`` in the first half of a stream's blocks, ``pitome-elu`` in the second."""
    half = pitome_bsm if 2 * tokens.block < tokens.blocks else pitome_elu
    return half(tokens, margin=margin, alpha=alpha)

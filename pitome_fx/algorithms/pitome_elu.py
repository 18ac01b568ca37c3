"""PiToMe with the continuous energy of the released vision models."""

from torch import Tensor
from torch.nn.functional import elu

from pitome_fx.algorithms.common import total_energy, unit
from pitome_fx.algorithms.pitome import falling_margin, ordered_split
from pitome_fx.algorithms.registry import Match, register


@register("pitome-elu", margin_at=falling_margin)
def pitome_elu(
    metric: Tensor, size: Tensor, padding: Tensor | None, k: int, margin: float, alpha: float
) -> Match:
    """Energy ELU(cos − m), averaged: like Eq. 4 but without its jump at the margin."""
    units = unit(metric)
    cos = units @ units.transpose(1, 2)
    return ordered_split(total_energy(elu(cos - margin, alpha), padding), units, padding, k)

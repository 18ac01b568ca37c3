"""AiluRus, adaptive resolution for dense prediction (Li et al., NeurIPS 2023, arXiv 2311.01197)."""

import torch
from torch import Tensor

from pitome_fx.algorithms.common import rank
from pitome_fx.algorithms.dpc_knn import clustered, distances, once, peaks
from pitome_fx.algorithms.parameters import Count, Weight
from pitome_fx.algorithms.registry import Match, Tokens, register


def squared_spread(position: Tensor, width: int) -> Tensor:
    """Squared distances (B, T, T) between places on a grid that is ``width`` columns wide."""
    row, column = position // width, position % width
    apart = [(x.unsqueeze(1) - x.unsqueeze(2)).square() for x in (row, column)]
    return (apart[0] + apart[1]).to(torch.float32)


def on_the_image(tokens: Tokens, spatial: float, width: int) -> Tensor:
    """Distances (B, T, T), each grown by the share ``spatial`` of its rank in the plane.

    1 + spatial·r/T, r the rank of the other token among all by their distance on the grid of
    ``width`` columns (0: the grid is square).
    """
    assert tokens.position is not None
    count = tokens.metric.shape[1]
    columns = width or round(count**0.5) if isinstance(count, int) else width
    apart = squared_spread(tokens.position, columns or 1)
    place = rank(apart).to(tokens.metric.dtype)
    # Symmetric, as a distance is.
    place = torch.maximum(place, place.transpose(1, 2))
    return distances(tokens) * (1 + spatial * place / count)


def image_peaks(tokens: Tokens, neighbours: int, spatial: float, width: int) -> Tensor:
    """ρ·δ (B, T) of these distances."""
    return peaks(on_the_image(tokens, spatial, width), neighbours)


@register(
    "ailurus",
    needs=["position"],
    metric="hidden",
    removes="all but one",
    blocks=once,
    scores=image_peaks,
)
def ailurus(
    tokens: Tokens, *, neighbours: Count = 5, spatial: Weight = 0.5, width: int = 0
) -> Match:
    """Density peaks, where tokens far apart on the image are farther in features, too."""
    return clustered(on_the_image(tokens, spatial, width), tokens, neighbours)

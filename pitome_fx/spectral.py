"""The spectral distance of a merge: how far the graph of tokens moves as they are merged.

Tokens are the nodes of a graph with the weights W = (1 + cos)/2. Merging coarsens it; lifting it
back gives every pair of tokens the mean weight between their groups. The distance is
Σ|λᵢ − λₗ,ᵢ| over the sorted eigenvalues of the normalised Laplacians of the two (Tran et al.,
NeurIPS 2024, Definition 2). Shapes: N tokens, N' groups, D features, B items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pitome_fx.frontends.transform import transform
from pitome_fx.frontends.watching import Decision, Watcher


def distance(tokens: Tensor, group: Tensor) -> Tensor:
    """Spectral distance between the graph of tokens and that graph coarsened.

    Args:
        tokens: (N, D), what tokens are compared by.
        group: (N,) int64, the group of each token, in [0, N').

    Returns:
        A scalar in float64, 0 where every group is of equal tokens.
    """
    weights = weights_of(tokens)
    return (spectrum(weights) - spectrum(lifted(weights, group))).abs().sum()


def weights_of(tokens: Tensor) -> Tensor:
    """(1 + cos)/2 between any two tokens: (N, D) → (N, N) in float64."""
    units = F.normalize(tokens.double(), dim=1)
    return (1 + units @ units.T) / 2


def spectrum(weights: Tensor) -> Tensor:
    """Sorted eigenvalues of the normalised Laplacian I − D^-1/2 W D^-1/2: (N, N) → (N,)."""
    degree = weights.sum(1)
    identity = torch.eye(len(weights), dtype=weights.dtype, device=weights.device)
    laplacian = identity - weights / degree.outer(degree).sqrt()
    return torch.linalg.eigvalsh((laplacian + laplacian.T) / 2)


def coarsened(weights: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the weights between any two groups, (N', N'), and the sizes of the groups, (N',)."""
    member = F.one_hot(group).to(weights.dtype)
    return member.T @ weights @ member, member.sum(0)


def lifted(weights: Tensor, group: Tensor) -> Tensor:
    """Every pair of tokens gets the mean weight between their groups: (N, N) → (N, N)."""
    total, size = coarsened(weights, group)
    return (total / size.outer(size))[group][:, group]


def of_merges(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, **options: Any
) -> list[Tensor]:
    """Spectral distance of every merge in one run of a model, on the tokens that it found there.

    Args:
        model: in eval mode.
        args, kwargs: of the call.
        options: as in ``Options``, but for the form.

    Returns:
        A tensor (B,) for each merge, in the order in which they run; none where nothing merges.

    Raises:
        OptionsError: an option is wrong.
        CaptureError: torch.export cannot trace the model.
    """
    merged = transform(model, args, kwargs, **{**options, "form": "pitome"})
    watcher = Watcher(merged, _distances)
    with torch.no_grad():
        watcher.call_with(args, kwargs)
    return watcher.seen


def _distances(decision: Decision) -> Tensor:
    """(B,) of one merge."""
    compared = zip(decision.deciding.metric, decision.step, strict=True)
    return torch.stack([distance(tokens, group) for tokens, group in compared])

"""What a merged model's features are worth: accuracies of a dense model's heads, and cosines."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Probe:
    """A linear classifier of features, trained on a dense model's."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, decay: float = 1e-2) -> Probe:
        """Multinomial logistic regression on standardised features (n, D)."""
        x = features.detach().double()
        mean, scale = x.mean(0), x.std(0).clamp(min=1e-6)
        x = (x - mean) / scale
        weight = torch.zeros(int(labels.max()) + 1, x.shape[1], dtype=x.dtype, device=x.device)
        bias = torch.zeros(len(weight), dtype=x.dtype, device=x.device)
        for value in (weight, bias):
            value.requires_grad_()
        search = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            search.zero_grad()
            value = F.cross_entropy(F.linear(x, weight, bias), labels)
            value = value + decay * weight.square().sum() / 2
            value.backward()
            return value

        search.step(loss)  # type: ignore[arg-type]
        return cls(mean, scale, weight.detach(), bias.detach())

    def right(self, features: Tensor, labels: Tensor) -> Tensor:
        """Which of the features (n, D) are classified rightly, (n,) bool."""
        x = (features.double() - self.mean) / self.scale
        return F.linear(x, self.weight, self.bias).argmax(1) == labels


def nearest_right(
    features: Tensor, labels: Tensor, gallery: Tensor, known: Tensor, neighbours: int = 20
) -> Tensor:
    """Which features (n, D) their nearest ones in a gallery (m, D) vote for rightly, by cosine."""
    cos = F.normalize(features, dim=1) @ F.normalize(gallery, dim=1).T
    strength, index = cos.topk(neighbours)
    votes = torch.zeros(len(features), int(known.max()) + 1, device=features.device)
    # Weighted as in the evaluation of DINO.
    votes.scatter_add_(1, known[index], (strength / 0.07).exp().to(votes.dtype))
    return votes.argmax(1) == labels


def neighbour_agreement(found: Tensor, dense: Tensor, neighbours: int = 5) -> Tensor:
    """Share of each one's nearest neighbours (n,) that two sets of embeddings (n, D) agree on."""

    def nearest(x: Tensor) -> Tensor:
        cos = F.normalize(x, dim=1) @ F.normalize(x, dim=1).T
        return cos.fill_diagonal_(-2).topk(neighbours).indices

    a, b = nearest(found), nearest(dense)
    return (a.unsqueeze(2) == b.unsqueeze(1)).any(2).double().mean(1)

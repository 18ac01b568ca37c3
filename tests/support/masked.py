"""A transformer that makes its own attention mask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.support.blocks import Transformer
from tests.support.models import Case, randomised

N = 25
"""Tokens of a ``Transformer`` with its class token."""


class Masked(nn.Module):
    """A transformer whose mask (…, N, N) is made in its forward, from its inputs or from nothing.

    Args:
        make: (module, inputs) → mask; buffers and parameters are on the module.
    """

    def __init__(self, spelling: str, make: Callable[..., Tensor]) -> None:
        super().__init__()
        self.body = Transformer(spelling, pool="mean", tokens=N - 1, depth=2)
        self.make = make
        self.register_buffer("tril", torch.ones(N, N, dtype=torch.bool).tril())
        self.register_buffer("additive", torch.zeros(N, N).masked_fill(~self.tril, -torch.inf))
        self.bias = nn.Parameter(torch.randn(3, N, N))
        self.table = nn.Parameter(torch.randn(2 * N - 1, 3))

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        return self.body(x, self.make(self, *given))


def masked(spelling: str, make: Callable[..., Tensor], *given: Tensor) -> Case:
    x = torch.randn(2, N - 1, 24)
    return Case(randomised(Masked(spelling, make)), (x, *given), merges=2).to(torch.float64)


def positions() -> Tensor:
    return torch.arange(N)


def finfo_min(hidden: Tensor) -> Tensor:
    """As Hugging Face masks: 0 where seen, the lowest float where hidden."""
    return torch.zeros(N, N).masked_fill(hidden, torch.finfo(torch.float32).min).double()

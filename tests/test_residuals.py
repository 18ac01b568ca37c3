"""Where a stream passes an attention is a question of dataflow, not of how a sum is spelled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.properties import laws
from tests.properties.residuals import IN_PLACE, SPELLINGS, Residual
from tests.properties.trial import Flat, Trial, rewritten, tried
from tests.support.models import randomised

BATCH, TOKENS, WIDTH, HEADS = 2, 16, 24, 3

Wrapped = Callable[["Layer", Tensor], Tensor]


class Layer(nn.Module):
    """Attention, and an MLP, that meet the stream in some way."""

    def __init__(self, residual: Residual) -> None:
        super().__init__()
        self.residual = residual
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.gate = nn.Linear(WIDTH, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 96), nn.GELU(), nn.Linear(96, WIDTH))

    def attend(self, x: Tensor) -> Tensor:
        """Of x (B, N, C) to itself, without a projection."""
        qkv = self.qkv(x).unflatten(-1, (3, HEADS, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.residual(x, self.proj(self.attend(self.norm1(x))))
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    """Two layers on tokens (B, N, C), or (N, B, C) where they are turned for attention alone."""

    def __init__(self, residual: Residual, layer: type[Layer] = Layer) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(layer(residual) for _ in range(2))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def flat(residual: Residual, layer: type[Layer] = Layer) -> Flat:
    """A model in float64, and a call of it."""
    torch.manual_seed(0)
    model = randomised(Model(residual, layer)).double()
    return Flat(model, (torch.randn(BATCH, TOKENS, WIDTH, dtype=torch.float64),))


def tried_on(model: Flat) -> Trial:
    return tried(rewritten(model, {"ratio": 0.75, "pays": True}), model)


ALL = {**SPELLINGS, **IN_PLACE}
ONCE = {"all-flattened": "merged tokens that are fused with channels meet no other channels"}
"""Where merging once is all that the law allows."""


@pytest.mark.parametrize("name", ALL)
def test_a_stream_is_followed_however_it_is_joined(name: str) -> None:
    trial = tried_on(flat(ALL[name]))
    assert trial.merges == 2 - (name in ONCE), [block.reason for block in trial.report.blocks]
    laws.captured(trial)
    laws.simulated(trial)

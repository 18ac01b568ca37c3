"""Ops that read memory by strides: what was merged and unmerged lies elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.properties.trial import LIMIT, Flat, rewritten, tried, worst_error

BATCH, TOKENS, WIDTH = 2, 12, 8


def windows(x: Tensor) -> Tensor:
    """Overlapping windows of four tokens, each summed up."""
    shape, strides = (BATCH, TOKENS // 2 - 1, 4, WIDTH), (TOKENS * WIDTH, 2 * WIDTH, WIDTH, 1)
    return x.as_strided(shape, strides).sum(2)


def of_channels_first(x: Tensor) -> Tensor:
    shape, strides = (BATCH, WIDTH, TOKENS // 2 - 1, 4), (TOKENS * WIDTH, TOKENS, 2, 1)
    return (x + 1).mT.contiguous().as_strided(shape, strides).sum(3).mT


def as_pairs(x: Tensor) -> Tensor:
    pairs = x.mT.contiguous().view(BATCH, WIDTH, -1, 2)
    return torch.view_as_real(torch.view_as_complex(pairs) * 2j).flatten(2).mT


def as_bits(x: Tensor) -> Tensor:
    return x.view(torch.int32)[:, ::2].view(torch.float64)


def beyond(x: Tensor) -> Tensor:
    """Reads tokens that were sliced off."""
    shape, strides = (BATCH, TOKENS // 2 - 1, 4, WIDTH), (TOKENS * WIDTH, 2 * WIDTH, WIDTH, 1)
    return x[:, 2:].as_strided(shape, strides, 0).sum(2)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.mlp(x)


class Read(nn.Module):
    """Blocks, tokens read by strides, and a block on what was read."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.before, self.after = nn.Sequential(Block(), Block()), Block()
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.read(self.before(x))).mean(1)


@pytest.mark.parametrize(
    ("read", "merges"),
    [(windows, 3), (of_channels_first, 3), (as_pairs, 3), (as_bits, 3), (beyond, 1)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_strides_are_those_of_the_dense_tensor(
    read: Callable[[Tensor], Tensor], merges: int
) -> None:
    torch.manual_seed(0)
    flat = Flat(Read(read).double(), (torch.randn(BATCH, TOKENS, WIDTH, dtype=torch.float64),))
    trial = tried(rewritten(flat, {"ratio": 0.6, "min_tokens": 2, "pays": True}), flat)
    assert trial.merges == merges
    assert worst_error(trial.output, trial.simulated) <= LIMIT
    refusals = trial.outcome.detection.refusals.values()
    assert all("reads beyond" in reason for reason in refusals)
    assert len(refusals) == 3 - merges

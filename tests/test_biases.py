"""Attention biases: exact where weights are only summed over keys, averaged for who reads more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import pitome_fx
from pitome_fx.passes.replay.treatment import How
from pitome_fx.testing import run_recorded
from tests.properties.trial import LIMIT, Flat, every_merge_pays, rewritten, tried, worst_error

TOKENS, WIDTH = 12, 8

Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of scores (B, N, N), two learned biases (N, N), and values (B, N, C)."""


def plain(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    return (scores + bias).softmax(-1) @ v


def added_first(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    return (scores + (bias + other)).softmax(-1) @ v


def shifted(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    scores = scores + bias
    return (scores - scores.amax(-1, keepdim=True).detach()).softmax(-1) @ v


def largest_of_pair(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    scores = scores + bias
    return (scores - scores.max(-1, keepdim=True)[0]).softmax(-1) @ v


def renormalised(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    weights = (scores + bias).softmax(-1) * 0.5
    return weights / weights.sum(-1, keepdim=True) @ v


def by_einsum(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("...ij,...jc->...ic", (scores + bias).softmax(-1), v)


def values_first(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    return (v.mT @ (scores + bias).softmax(-1).mT).mT


def two(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    return (scores + bias + other).softmax(-1) @ v


def peak_read(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    weights = (scores + bias).softmax(-1)
    return weights @ v + weights.amax(-1, keepdim=True)


def squared(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    weights = (scores + bias).softmax(-1)
    return (weights * weights) @ v


def powered(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    return (scores + bias).softmax(-1) ** 2 @ v


def over_queries(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    scores = scores + bias
    return (scores - scores.amax(-2, keepdim=True)).softmax(-1) @ v


def received(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    weights = (scores + bias).softmax(-1)
    return weights @ v * weights.sum(-2).sigmoid()[..., None]


def twice(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    weights = (scores + bias).softmax(-1)
    return weights @ weights @ v


def symmetric(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    weights = (scores + bias).softmax(-1)
    return (weights + weights.mT) @ v


def fed_back(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    scores = scores + bias
    return (scores + scores.softmax(-1)).softmax(-1) @ v


def hidden_by_choice(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    seen = torch.ones(TOKENS, dtype=torch.bool)
    return torch.where(seen, scores + bias, -1e9).softmax(-1) @ v


def after_another(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    """Padding first (none is hidden here), then one learned number for each key."""
    return (scores + v.abs().sum(-1)[:, None].clamp(max=0) + bias[0]).softmax(-1) @ v


EXACT = [plain, added_first, shifted, largest_of_pair, renormalised, by_einsum, values_first]
EXACT += [hidden_by_choice, after_another]
READ = [peak_read, squared, powered, over_queries, received, twice, symmetric, fed_back]


class Block(nn.Module):
    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.attend = attend
        self.norm, self.qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.bias, self.other = (nn.Parameter(torch.randn(TOKENS, TOKENS)) for _ in range(2))
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.attend(q @ k.mT * WIDTH**-0.5, self.bias, self.other, v)
        return x + self.mlp(x)


@pytest.mark.parametrize("attend", [*EXACT, two, *READ], ids=lambda f: f.__name__)
def test_bias_keeps_the_law(attend: Attend) -> None:
    torch.manual_seed(0)
    # The first block merges in any case, and the others may only attend to merged tokens.
    model = nn.Sequential(Block(plain), Block(attend), Block(attend)).double()
    flat = Flat(model, (torch.randn(2, TOKENS, WIDTH, dtype=torch.float64),))
    outcome = rewritten(flat, {"ratio": 0.6, "min_tokens": 2, "pays": True})
    trial = tried(outcome, flat)
    assert trial.merges
    assert worst_error(trial.output, trial.simulated) <= LIMIT
    treatments = outcome.detection.treatments.edges.values()
    exact = [own for own in treatments if own.how is How.WEIGHT]
    assert len(exact) == (1 if attend in READ else 3)


def in_its_dtype(scores: Tensor, bias: Tensor, other: Tensor, v: Tensor) -> Tensor:
    return (scores + bias[:1]).softmax(-1, dtype=torch.float64).to(v.dtype) @ v


def test_a_dtype_that_an_export_asserts_is_no_value_read() -> None:
    """Exact copies of tokens, whose biases as keys differ, merge without changing anything."""
    torch.manual_seed(0)
    model = nn.Sequential(Block(in_its_dtype), Block(in_its_dtype)).double()
    x = torch.randn(2, TOKENS // 2, WIDTH, dtype=torch.float64).repeat_interleave(2, 1)
    options = {"schedule": [0.5, 1.0], "algorithm": "tome", "min_tokens": 2}
    with torch.no_grad(), every_merge_pays(True):
        merged = pitome_fx.transform(model, (x,), **options)
        found, assignments = run_recorded(merged, x)
        wanted = model(x)
    assert assignments[0].max() < TOKENS - 1
    torch.testing.assert_close(found, wanted, rtol=LIMIT, atol=LIMIT)

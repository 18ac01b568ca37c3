"""Operands that lend a dtype, a device or a shape: the result has the others' values and tokens.

Each reading of merged tokens is compared with its simulation, and on exact duplicates of tokens,
whose merging must change nothing, with the dense model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pitome_fx.testing import run_recorded
from pitome_fx.testing.oracle import Simulator
from tests.properties.trial import LIMIT, Flat, rewritten, tried, worst_error

aten = torch.ops.aten

BATCH, TOKENS, WIDTH = 3, 24, 8
OPTIONS = {"ratio": 0.5, "min_tokens": 2, "pays": True, "protect": 0}


@dataclass(frozen=True)
class Reading:
    """What is computed from tokens x (B, N, C) and what meets them.

    Attributes:
        f: of x, a parameter p (1, N, C), an input t (B, C) and one number s.
        projected: something is merged along.
        lifts: tokens have to be unmerged.
    """

    f: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    projected: bool = False
    lifts: bool = False


def of_p(cast: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Reading]:
    """A parameter in the dtype of tokens is a parameter: dense, and computed from no token."""
    return {
        "summed": Reading(lambda x, p, t, s: cast(p, x).sum(1)),
        "softmax": Reading(lambda x, p, t, s: cast(p, x).softmax(1)[:, :3].flatten(1)),
        "mean, then sum": Reading(lambda x, p, t, s: cast(p, x).mean(1).sum(-1)),
        "of a batch of rows": Reading(lambda x, p, t, s: F.linear(cast(t, x), p[0])),
        "of a number": Reading(lambda x, p, t, s: x.sum(1) * cast(s, x)),
        "meets tokens": Reading(lambda x, p, t, s: (x * cast(p, x)).sum(1), projected=True),
        "of tokens": Reading(lambda x, p, t, s: cast(x, p).mean(1)),
        "of tokens by a number": Reading(lambda x, p, t, s: cast(x, s).mean(1)),
    }


CASTS = {
    "type_as": of_p(lambda y, other: y.type_as(other)),
    "to.other": of_p(lambda y, other: aten.to.other(y, other, non_blocking=True, copy=True)),
}

SHAPES = {
    "expand_as grows to tokens": Reading(lambda x, p, t, s: (x + t[:, None].expand_as(x)).sum(1)),
    "expand_as of a mean": Reading(
        lambda x, p, t, s: (x * x.mean(1, keepdim=True).expand_as(x)).sum(1)
    ),
    "expand_as grows to a batch": Reading(lambda x, p, t, s: p.expand_as(x).sum(1)),
    "expand_as grows to a batch and meets tokens": Reading(
        lambda x, p, t, s: (x * p.expand_as(x)).sum(1), projected=True
    ),
    "expand_as of a channel": Reading(lambda x, p, t, s: x[..., :1].expand_as(x).sum(1)),
    "expand_as of a channel to what is dense": Reading(
        lambda x, p, t, s: x[..., :1].expand_as(p.expand(len(t), -1, -1)).sum(1)
    ),
    "expand_as of a number": Reading(lambda x, p, t, s: s.expand_as(x).sum(1)),
    "view_as what is merged": Reading(
        lambda x, p, t, s: p.expand_as(x).flatten(1).view_as(x).sum(1)
    ),
    "view_as of what is merged": Reading(
        lambda x, p, t, s: x.flatten(0, 1).view_as(p.expand(len(t), -1, -1)).sum(1)
    ),
    "reshape_as": Reading(lambda x, p, t, s: x.mT.contiguous().mT.reshape_as(x).sum(1)),
    "broadcast_to": Reading(lambda x, p, t, s: x[:, None].broadcast_to(-1, 2, -1, -1).sum(2)),
    "broadcast_tensors": Reading(
        lambda x, p, t, s: (torch.broadcast_tensors(t[:, None], x)[0] * x).sum(1)
    ),
    "copy_ of a parameter": Reading(lambda x, p, t, s: torch.empty_like(x).copy_(p).sum(1)),
    "copy_ of rows": Reading(lambda x, p, t, s: (torch.empty_like(x).copy_(t[:, None]) * x).sum(1)),
    "copy_ of tokens": Reading(
        lambda x, p, t, s: p.expand(len(t), -1, -1).clone().copy_(x).softmax(1).amax(1)
    ),
}

FILLS = {
    "zeros_like": Reading(lambda x, p, t, s: (torch.zeros_like(x) + 1).sum(1)),
    "ones_like of what was unmerged": Reading(
        lambda x, p, t, s: (x * torch.ones_like(x.roll(1, 1))).sum(1), projected=True, lifts=True
    ),
    "full_like": Reading(lambda x, p, t, s: (x * torch.full_like(x, 0.5)).mean(1)),
    "empty_like": Reading(lambda x, p, t, s: (x + torch.empty_like(x).fill_(2)).sum(1)),
    "fill_ with a tensor": Reading(lambda x, p, t, s: torch.empty_like(x).fill_(s).sum(1)),
    "zero_": Reading(lambda x, p, t, s: (x * 2 + torch.empty_like(x).zero_()).sum(1)),
    "new_ones": Reading(lambda x, p, t, s: x.new_ones(x.shape).softmax(1).amax(1)),
    "new_full meets tokens": Reading(
        lambda x, p, t, s: (x * x.new_full(x.shape, 2)).sum(1), projected=True
    ),
    "new_tensor": Reading(lambda x, p, t, s: x.sum(1) / x.new_tensor(x.shape[1])),
    "zeros_like, as a mask": Reading(
        lambda x, p, t, s: x.masked_fill(torch.zeros_like(x, dtype=torch.bool), 1).sum(1)
    ),
}

BROADCAST = {
    "where by a number": Reading(lambda x, p, t, s: torch.where(s > 0, x, -x).sum(1)),
    "where by a row": Reading(lambda x, p, t, s: torch.where(p[0, 0] > 0, x, s).sum(1)),
    "where of numbers": Reading(lambda x, p, t, s: torch.where(x > 0, s, -s).sum(1)),
    "masked_fill with a tensor": Reading(lambda x, p, t, s: x.masked_fill(x > 0, s).sum(1)),
    "masked_fill of a parameter": Reading(
        lambda x, p, t, s: p.masked_fill(p > 0, s).softmax(1).amax(1)
    ),
    "masked_scatter": Reading(
        lambda x, p, t, s: x.masked_scatter(p > 0, t.new_ones(x.numel())).sum(1), lifts=True
    ),
    "lerp": Reading(lambda x, p, t, s: torch.lerp(x, t[:, None], s).mean(1)),
    "lerp by a parameter": Reading(
        lambda x, p, t, s: torch.lerp(x, s, p.sigmoid()).mean(1), projected=True
    ),
    "addcmul": Reading(lambda x, p, t, s: torch.addcmul(s, x, t[:, None]).mean(1)),
    "addcdiv": Reading(lambda x, p, t, s: torch.addcdiv(x, p[0, 0], s).mean(1)),
    "clamp by tensors": Reading(lambda x, p, t, s: x.clamp(-s.abs(), p[0, 0].abs()).sum(1)),
    "atan2": Reading(lambda x, p, t, s: torch.atan2(p[0, 0], x).sum(1)),
    "ldexp": Reading(lambda x, p, t, s: torch.ldexp(x, s).sum(1)),
    "float_power": Reading(lambda x, p, t, s: torch.float_power(x.abs(), s.abs()).sum(1)),
    "heaviside": Reading(lambda x, p, t, s: torch.heaviside(x, s).sum(1)),
    "nan_to_num": Reading(lambda x, p, t, s: x.log().nan_to_num(1.0, 2.0, 3.0).sum(1)),
    "frexp": Reading(lambda x, p, t, s: torch.frexp(x).mantissa.sum(1)),
    "copysign": Reading(lambda x, p, t, s: torch.copysign(s, x).sum(1)),
    "outer": Reading(lambda x, p, t, s: (t[:, None, None] + x[..., None]).sum(1)),
    "squeeze": Reading(lambda x, p, t, s: x[:, None].squeeze().sum(1)),
    "a product with dense tokens": Reading(
        lambda x, p, t, s: (x @ x.mT @ p.expand(x.shape[0], -1, -1)).sum(1), projected=True
    ),
    "a product with dense rows": Reading(
        lambda x, p, t, s: (p.mT.expand(x.shape[0], -1, -1) @ x).sum(1), projected=True
    ),
}

READINGS = {
    **{f"{cast}: {name}": r for cast, named in CASTS.items() for name, r in named.items()},
    **SHAPES,
    **FILLS,
    **BROADCAST,
}


class Read(nn.Module):
    """A transformer block, and a reading of its tokens."""

    def __init__(self, f: Callable[..., Tensor]) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU())
        self.p = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
        self.f = f

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + F.scaled_dot_product_attention(q, k, v)
        x = x + self.mlp(x)
        return self.f(x, self.p, t, s), x.mean(1)


def built(f: Callable[..., Tensor], batch: int = BATCH, *, twice: bool = False) -> Flat:
    """A model and inputs; ``twice``: every token comes twice, and so does what p has for it."""
    torch.manual_seed(0)
    model = Read(f).double()
    x = torch.randn(batch, TOKENS, WIDTH, dtype=torch.float64)
    if twice:
        pairs = torch.arange(TOKENS // 2).repeat(2)
        x, model.p = x[:, pairs], nn.Parameter(model.p.detach()[:, pairs])
    t = torch.randn(batch, WIDTH, dtype=torch.float64)
    return Flat(model, (x, t, torch.tensor(0.7, dtype=torch.float64)))


@pytest.mark.parametrize("name", READINGS)
def test_reading_is_simulated(name: str) -> None:
    reading = READINGS[name]
    flat = built(reading.f)
    trial = tried(rewritten(flat, OPTIONS), flat)
    assert trial.merges == 1, trial.report
    assert worst_error(trial.output, trial.simulated) <= LIMIT
    assert [x.shape for x in trial.output] == [x.shape for x in trial.dense]
    done = trial.outcome.rewritten
    assert done is not None
    lifts = [event for event in done.lifts if event.node.op != "output"]
    assert bool(lifts) is reading.lifts, lifts
    assert bool(done.projections) is reading.projected, done.projections


@pytest.mark.parametrize("name", READINGS)
def test_duplicates_merge_without_a_change(name: str) -> None:
    """Of one item: its batch axis has no name, and any operand might be of its shape."""
    flat = built(READINGS[name].f, 1, twice=True)
    trial = tried(rewritten(flat, OPTIONS), flat)
    assert trial.merges == 1
    assert worst_error(trial.output, trial.dense) <= LIMIT
    assert worst_error(trial.output, trial.simulated) <= LIMIT


DRAWS = {
    "rand_like": lambda x: torch.rand_like(x),
    "randn_like": lambda x: torch.randn_like(x),
    "of what was unmerged": lambda x: torch.randn_like(x.roll(1, 1)),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "bernoulli by a number": lambda x: torch.bernoulli(x, 0.3),
    "randint_like": lambda x: torch.randint_like(x, 5),
    "exponential_": lambda x: torch.empty_like(x).exponential_(),
    "uniform_": lambda x: torch.empty_like(x).uniform_(-1, 1),
    "normal_": lambda x: torch.empty_like(x).normal_(),
    "gumbel": lambda x: F.gumbel_softmax(x, dim=-1),
    "rrelu": lambda x: F.rrelu(x, training=True),
}


@pytest.mark.parametrize("name", DRAWS)
def test_every_token_draws_for_itself(name: str) -> None:
    """As many values are drawn as in the dense program, and from one seed the same."""
    draw = DRAWS[name]
    flat = built(lambda x, p, t, s: torch.cat([draw(x).softmax(1).amax(1), (x * draw(x)).sum(1)]))
    outcome = rewritten(flat, OPTIONS)
    assert outcome.rewritten is not None
    with torch.no_grad():
        torch.manual_seed(1)
        output, assignments = run_recorded(outcome.rewritten.graph, *flat.fresh())
        torch.manual_seed(1)
        simulated = Simulator(outcome, assignments).run(*flat.fresh())
    assert worst_error(output, simulated) <= LIMIT

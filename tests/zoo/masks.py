"""Attention masks in every spelling, and scores changed before or after the softmax."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.masked import N, finfo_min, masked, positions
from tests.support.models import Case, randomised
from tests.zoo.entry import Entry, fixed

MASKS, SCORES = "Masks by hand", "Scores changed around the softmax"
CAUSAL = "0 of 2: causal attention mask"
STRUCTURED = "0 of 2: structured attention mask"
INFINITE = float("inf")


def mask(
    name: str, make: Callable[..., Tensor], verdict: str, *given: Tensor, by: str = "sdpa"
) -> Entry:
    """A model whose mask is ``make(model, *given)``, its attention spelled ``by``."""
    return fixed(Entry(MASKS, f"mask-{name}", partial(masked, by, make, *given), verdict))


class Weighing(nn.Module):
    """Two blocks of attention, its scores made into weights by ``weigh(model, scores, *given)``."""

    def __init__(self, weigh: Callable[..., Tensor]) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(24, 72) for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(24, 96), nn.GELU(), nn.Linear(96, 24)) for _ in range(2)
        )
        self.bias = nn.Parameter(torch.randn(3, 16, 16))
        self.register_buffer("tril", torch.ones(1, 1, 32, 32).tril())
        self.weigh = weigh

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        for qkv, mlp in zip(self.qkv, self.mlp, strict=True):
            q, k, v = qkv(x).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
            weights = self.weigh(self, q @ k.transpose(-2, -1) / 8**0.5, *given)
            x = x + (weights @ v).transpose(1, 2).flatten(2)
            x = x + mlp(x)
        return x


def scores(weigh: Callable[..., Tensor], verdict: str = "2 of 2", *given: Tensor) -> Entry:
    """The entry of a function on scores, named after it."""
    name = "scores-" + weigh.__name__.replace("_", "-")

    def build() -> Case:
        return Case(randomised(Weighing(weigh)), (torch.randn(2, 16, 24), *given))

    return Entry(SCORES, name, build, verdict)


def kept(count: int) -> Tensor:
    """(2, count) True for real tokens: all of the first item, 12 of the second."""
    return torch.arange(count) < torch.tensor([[count], [12]])


def ones() -> Tensor:
    return torch.ones(N, N)


def distance() -> Tensor:
    """How far a query (row) is behind a key (column)."""
    return positions()[None] - positions()[:, None]


def alibi(m: nn.Module) -> Tensor:
    slopes = torch.tensor([0.5, 0.25, 0.125]).double()
    return -slopes[:, None, None] * distance().abs()


def causal_alibi(m: nn.Module) -> Tensor:
    return alibi(m).masked_fill(distance() > 0, -INFINITE)


def hidden_bias(m: nn.Module, keys: Tensor) -> Tensor:
    """A learned bias and padding."""
    return m.bias.masked_fill(~keys[:, None, None], -INFINITE)


def nano_gpt(m: Weighing, s: Tensor) -> Tensor:
    return s.masked_fill(m.tril[:, :, :16, :16] == 0, -INFINITE).softmax(-1)


def old_gpt2(m: Weighing, s: Tensor) -> Tensor:
    seen = m.tril[:, :, :16, :16]
    return (s * seen - 1e4 * (1 - seen)).softmax(-1)


def renormalised(m: Weighing, s: Tensor) -> Tensor:
    weights = s.softmax(-1) * torch.ones(16, 16).tril()
    return weights / weights.sum(-1, keepdim=True)


def top_k(m: Weighing, s: Tensor) -> Tensor:
    """Members of a group have one score: rounding must not tell them apart at the threshold."""
    least = s.topk(4, -1).values[..., -1:] - 1e-9
    return s.masked_fill(s < least, -INFINITE).softmax(-1)


def bias_added(m: Weighing, s: Tensor) -> Tensor:
    return (s + m.bias).softmax(-1)


def bias_added_twice(m: Weighing, s: Tensor) -> Tensor:
    return torch.add(s, m.bias, alpha=2).softmax(-1)


def bias_subtracted(m: Weighing, s: Tensor) -> Tensor:
    return (s - m.bias).softmax(-1)


def subtracted_from_bias(m: Weighing, s: Tensor) -> Tensor:
    return (m.bias - s).softmax(-1)


def bias_before_scale(m: Weighing, s: Tensor) -> Tensor:
    return ((s + m.bias) / 3).softmax(-1)


def bias_times_scores(m: Weighing, s: Tensor) -> Tensor:
    return (s * m.bias).softmax(-1)


def scores_over_bias(m: Weighing, s: Tensor) -> Tensor:
    return (s / m.bias.exp()).softmax(-1)


def soft_cap(m: Weighing, s: Tensor) -> Tensor:
    return (5 * (s / 5).tanh()).softmax(-1)


def soft_cap_of_bias(m: Weighing, s: Tensor) -> Tensor:
    return (5 * ((s + m.bias) / 5).tanh()).softmax(-1)


def bias_where_seen(m: Weighing, s: Tensor) -> Tensor:
    """Learned, but it hides keys."""
    return torch.where(m.bias > 0, s, -INFINITE).softmax(-1)


def weights_times_bias(m: Weighing, s: Tensor) -> Tensor:
    return s.softmax(-1) * m.bias.sigmoid()


def weights_plus_bias(m: Weighing, s: Tensor) -> Tensor:
    return s.softmax(-1) + m.bias


def float32_softmax(m: Weighing, s: Tensor) -> Tensor:
    return F.softmax(s, -1, dtype=torch.float32).to(s)


def shifted_softmax(m: Weighing, s: Tensor) -> Tensor:
    return (s - s.amax(-1, keepdim=True)).softmax(-1)


def softmax_plus_one(m: Weighing, s: Tensor) -> Tensor:
    """Its own normaliser, and so no softmax to find."""
    return s.exp() / (1 + s.exp().sum(-1, keepdim=True))


def relu_weights(m: Weighing, s: Tensor) -> Tensor:
    return s.relu() / 16


def padding_filled(m: Weighing, s: Tensor, keys: Tensor) -> Tensor:
    return s.masked_fill(~keys[:, None, None], -1e9).softmax(-1)


def padding_where(m: Weighing, s: Tensor, keys: Tensor) -> Tensor:
    return torch.where(keys[:, None, None], s, torch.finfo(s.dtype).min).softmax(-1)


def float_multiplied(m: Weighing, s: Tensor, keys: Tensor) -> Tensor:
    return s.softmax(-1) * keys[:, None, None]


def bool_multiplied(m: Weighing, s: Tensor, keys: Tensor) -> Tensor:
    return s.softmax(-1) * keys[:, None, None]


def temperature(m: Weighing, s: Tensor, given: Tensor) -> Tensor:
    """One temperature for every query, from outside: it hides no key."""
    return (s * given[:, None, :, None]).softmax(-1)


ENTRIES = [
    mask("bool-buffer", lambda m: m.tril, STRUCTURED),
    mask("float-buffer", lambda m: m.additive, STRUCTURED),
    mask("tril", lambda m: ones().tril().bool(), CAUSAL),
    mask("tril-bmm", lambda m: ones().tril().bool().expand(1, 3, N, N), CAUSAL, by="bmm"),
    mask("minus-inf", lambda m: torch.full((N, N), -INFINITE).triu(1), CAUSAL, by="matmul"),
    mask("minus-1e9", lambda m: ones().triu(1).double() * -1e9, CAUSAL),
    mask("minus-1e4", lambda m: (1 - ones().tril()) * -1e4, CAUSAL, by="einsum"),
    mask("finfo-min", lambda m: finfo_min(ones().triu(1) > 0), CAUSAL),
    mask("log-of-tril", lambda m: ones().tril().log(), CAUSAL, by="matmul"),
    mask("arange", lambda m: distance() <= 0, CAUSAL),
    mask("alibi-causal", causal_alibi, CAUSAL),
    mask("anti-causal", lambda m: distance() >= 0, STRUCTURED),
    mask("prefix-lm", lambda m: m.tril | (positions() < 7), STRUCTURED),
    mask("sliding-window", lambda m: distance().abs() < 5, STRUCTURED),
    mask("dilated", lambda m: distance() % 3 == 0, STRUCTURED, by="matmul"),
    mask("block-diagonal", lambda m: positions() // 5 == positions()[:, None] // 5, STRUCTURED),
    mask("not-self", lambda m: ~torch.eye(N, dtype=torch.bool), STRUCTURED),
    mask("given-square", lambda m, x: x, STRUCTURED, ones() > 0),
    mask("given-square-float", lambda m, x: x, STRUCTURED, 0 * ones(), by="matmul"),
    mask("given-per-item", lambda m, x: x, STRUCTURED, torch.ones(2, 1, N, N) > 0),
    mask(
        "packed-segments",
        lambda m, x: x[:, None, :, None] == x[:, None, None],
        STRUCTURED,
        torch.arange(2 * N).view(2, N) // 7,
    ),
    mask("both-ways", lambda m, x: x[:, None, None] & x[:, None, :, None], STRUCTURED, kept(N)),
    mask("padded-tril", lambda m, x: x[:, None, None] & (ones().tril() > 0), CAUSAL, kept(N)),
    mask("padding", lambda m, x: x[:, None, None], "2 of 2", kept(N)),
    mask("padding-rows", lambda m, x: x[:, None, None].expand(-1, 1, N, N), "2 of 2", kept(N)),
    mask("padding-float", lambda m, x: -1e4 * (1 - x[:, None, None].double()), "2 of 2", kept(N)),
    mask(
        "padding-lengths",
        lambda m, x: (positions() < x[:, None])[:, None, None],
        "2 of 2",
        torch.tensor([25, 9]),
        by="einsum",
    ),
    mask(
        "padding-bmm",
        lambda m, x: x[:, None, None].expand(-1, 3, N, N),
        "2 of 2",
        kept(N),
        by="bmm",
    ),
    mask("all-seen", lambda m: ones().bool(), "2 of 2"),
    mask("alibi", alibi, "2 of 2"),
    mask("bias-and-padding", hidden_bias, "2 of 2", kept(N)),
    fixed(scores(nano_gpt, STRUCTURED)),
    fixed(scores(old_gpt2, STRUCTURED)),
    fixed(scores(renormalised, CAUSAL)),
    scores(top_k, "1 of 2: its keys and its residual stream are merged differently"),
    fixed(scores(bias_added)),
    fixed(scores(bias_added_twice)),
    fixed(scores(bias_subtracted)),
    fixed(scores(subtracted_from_bias)),
    fixed(scores(bias_before_scale)),
    fixed(scores(bias_times_scores)),
    fixed(scores(scores_over_bias)),
    scores(soft_cap),
    fixed(scores(soft_cap_of_bias)),
    fixed(scores(bias_where_seen, STRUCTURED)),
    fixed(scores(weights_times_bias, STRUCTURED)),
    fixed(scores(weights_plus_bias, "2 of 2")),
    scores(float32_softmax),
    scores(shifted_softmax),
    scores(temperature, "2 of 2", torch.rand(2, 16)),
    scores(softmax_plus_one),
    scores(relu_weights),
    scores(padding_filled, "2 of 2", kept(16)),
    scores(padding_where, "2 of 2", kept(16)),
    scores(float_multiplied, "2 of 2", kept(16).float()),
    scores(bool_multiplied, "2 of 2", kept(16)),
]

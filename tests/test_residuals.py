"""Where a stream passes an attention is a question of dataflow, not of how a sum is spelled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pitome_fx.groups import sizes
from tests.properties import laws
from tests.properties.residuals import IN_PLACE, SPELLINGS, Residual
from tests.properties.trial import LIMIT, Flat, Trial, rewritten, tried, worst_error
from tests.support.models import randomised

BATCH, TOKENS, WIDTH, HEADS = 2, 16, 24, 3


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
    """Two layers on tokens (B, N, C)."""

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


aten = torch.ops.aten
ALL = {**SPELLINGS, **IN_PLACE}
ONCE = {"all-flattened": "merged tokens that are fused with channels meet no other channels"}
"""Where merging once is all that the law allows."""


@pytest.mark.parametrize("name", ALL)
def test_a_stream_is_followed_however_it_is_joined(name: str) -> None:
    trial = tried_on(flat(ALL[name]))
    assert trial.merges == 2 - (name in ONCE), [block.reason for block in trial.report.blocks]
    laws.captured(trial)
    laws.simulated(trial)


@pytest.mark.parametrize("name", ["add", "lerp-gate", "cat-linear", "streams", "channels-split"])
def test_equal_tokens_may_merge_and_change_nothing(name: str) -> None:
    model = flat(SPELLINGS[name])
    twice = Flat(model.module, (model.inputs[0][:, : TOKENS // 2].repeat(1, 2, 1),))
    trial = tried(rewritten(twice, {"ratio": 0.5, "blocks": [0], "pays": True}), twice)
    assert [sizes(groups).unique().tolist() for groups in trial.assignments] == [[2]]
    assert worst_error(trial.output, trial.dense) < LIMIT


def turned(residual: Residual) -> Residual:
    """The stream is (N, B, C), which only attention sees as (B, N, C)."""
    return lambda x, a: residual(x.transpose(0, 1), a.transpose(0, 1)).transpose(0, 1)


@pytest.mark.parametrize("name", ["add-turned", "lerp", "stack-sum", "flatten-and-back"])
def test_the_layout_of_the_stream_does_not_matter(name: str) -> None:
    trial = tried_on(flat(turned(SPELLINGS[name])))
    assert trial.merges == 2, [block.reason for block in trial.report.blocks]
    laws.simulated(trial)


WITHIN: dict[str, Callable[[Layer, Tensor, Tensor], Tensor]] = {
    "gated": lambda layer, a, h: a * layer.gate(h).sigmoid(),
    "gated by its input": lambda layer, a, h: a * h,
    "shifted": lambda layer, a, h: a * layer.gate(h).sigmoid() + layer.gate(h),
    "gated and normed": lambda layer, a, h: F.normalize(a * layer.gate(h), dim=-1),
}
"""What attention gives before its projection, and what it came from: no residual connection."""


@pytest.mark.parametrize("name", WITHIN)
def test_a_gate_inside_the_attention_is_not_the_residual(name: str) -> None:
    class Within(Layer):
        def attend(self, x: Tensor) -> Tensor:
            return WITHIN[name](self, super().attend(x), x)

    trial = tried_on(flat(SPELLINGS["add"], Within))
    assert trial.merges == 2
    for block in trial.outcome.detection.blocks:
        _, a = block.point.all_input_nodes
        assert block.point.target == aten.add.Tensor and a.target == aten.linear.default
    laws.simulated(trial)


REFUSED: dict[str, Residual] = {
    "nothing": lambda x, a: a,
    "a gate alone": lambda x, a: a * F.linear(x, torch.ones(WIDTH, WIDTH).to(x)).sigmoid(),
    "other tokens": lambda x, a: a + x.flip(1),
    "earlier tokens": lambda x, a: a + x.cumsum(1),
    "their mean": lambda x, a: a + x.mean(1, keepdim=True),
    "one of them": lambda x, a: a + x[:, :1],
    "mixed by weights": lambda x, a: a + torch.ones(TOKENS, TOKENS).to(x) @ x,
    "mixed by attention": lambda x, a: a + F.scaled_dot_product_attention(x, x * 0.5, x - 1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_without_a_path_from_token_to_token_there_is_no_residual(name: str) -> None:
    trial = tried_on(flat(REFUSED[name]))
    for block in trial.report.blocks[:1]:
        assert str(block.reason).startswith("no residual connection carries these tokens past")


def test_a_stream_that_the_caller_sees_written_over_says_so() -> None:
    class Bare(Model):
        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return self.head(x)

    torch.manual_seed(0)
    model = randomised(Bare(IN_PLACE["x-add_"])).double()
    trial = tried_on(Flat(model, (torch.randn(BATCH, TOKENS, WIDTH, dtype=torch.float64),)))
    first, _ = trial.report.blocks
    assert str(first.reason).startswith("an in-place write (aten.add_.Tensor) in")
    laws.simulated(trial)


@pytest.mark.parametrize(
    "write",
    [
        lambda cache, x: cache.copy_(x),
        lambda cache, x: cache.add_(x),
        lambda cache, x: cache[:, :3].copy_(x[:, :3]),
    ],
    ids=["copied", "added", "in part"],
)
def test_tokens_that_the_caller_gets_in_a_tensor_of_theirs_are_not_merged_before(
    write: Callable[[Tensor, Tensor], Tensor],
) -> None:
    class Cached(Model):
        def forward(self, x: Tensor, cache: Tensor) -> Tensor:
            first, second = self.layers
            x = first(x)
            write(cache, x)
            return self.head(second(x))

    torch.manual_seed(0)
    model = randomised(Cached(torch.add)).double()
    x, cache = torch.randn(2, BATCH, TOKENS, WIDTH, dtype=torch.float64)
    trial = tried_on(Flat(model, (x, cache)))
    first, second = trial.report.blocks
    assert "aliases a token tensor" in str(first.reason) and second.merged
    laws.simulated(trial)

"""Attention in whatever spelling: it merges by the law, or is refused for its true reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.properties.spellings import LINEAR, SPELLINGS, Attend, zero_key
from tests.properties.trial import LIMIT, Flat, Trial, rewritten, tried, worst_error
from tests.support.models import Case
from tests.support.oracle import assert_keeps_the_law

TOKENS, WIDTH, HEADS = 16, 12, 3
OPTIONS = {"min_tokens": 2, "pays": True}

Masking = Callable[["Block", Tensor], Tensor | None]


def unmasked(block: Block, seen: Tensor) -> None:
    return None


def padding(block: Block, seen: Tensor) -> Tensor:
    return seen[:, None, None, :]


def bias(block: Block, seen: Tensor) -> Tensor:
    """Learned; two tokens side by side, which may be equal, share their row and column."""
    return block.bias.repeat_interleave(2, -1).repeat_interleave(2, -2)


def causal(block: Block, seen: Tensor) -> Tensor:
    return torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()


MASKS = {"none": unmasked, "padding": padding, "bias": bias}
CASES = [(name, mask) for name in SPELLINGS for mask in MASKS]
CASES += [(name, mask) for name in LINEAR for mask in ("none", "padding")]


class Block(nn.Module):
    def __init__(self, attend: Attend, masking: Masking) -> None:
        super().__init__()
        self.attend, self.masking = attend, masking
        self.norm, self.qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.proj, self.sink = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(HEADS))
        self.bias = nn.Parameter(torch.randn(HEADS, TOKENS // 2, TOKENS // 2))
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU())

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        out = self.attend(q, k, v, self.masking(self, seen), self.sink)
        x = x + self.proj(out.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class Model(nn.Module):
    """Two blocks; every token is read out, and their mean."""

    def __init__(self, attend: Attend, masking: Masking) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(attend, masking) for _ in range(2))

    def forward(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            x = block(x, seen)
        return x, x.mean(1)


def flat(attend: Attend, masking: Masking, *, twice: bool = False) -> Flat:
    """Inputs of random tokens, or of tokens each of which comes twice."""
    torch.manual_seed(0)
    x = torch.randn(2, TOKENS // 2 if twice else TOKENS, WIDTH, dtype=torch.float64)
    x = x.repeat_interleave(2, 1) if twice else x
    seen = torch.arange(TOKENS).expand(2, -1) < torch.tensor([[TOKENS], [TOKENS - 6]])
    return Flat(Model(attend, masking).double().eval(), (x, seen))


def run(name: str, mask: str, *, twice: bool = False, **options: object) -> Trial:
    inputs = flat({**SPELLINGS, **LINEAR}[name], MASKS[mask], twice=twice)
    return tried(rewritten(inputs, {**OPTIONS, **options}), inputs)


def reasons(attend: Attend, masking: Masking, **options: object) -> list[str]:
    """Why no site of a model merges; none may."""
    outcome = rewritten(flat(attend, masking), {**OPTIONS, "ratio": 0.6, **options})
    assert outcome.rewritten is None
    return [outcome.plan.refusals[site] for site in outcome.detection.sites]


@pytest.mark.parametrize(("name", "mask"), CASES)
def test_spelling_keeps_the_law(name: str, mask: str) -> None:
    trial = run(name, mask, ratio=0.6)
    assert [block.reason for block in trial.report.blocks] == [None, None]
    assert worst_error(trial.output, trial.simulated) <= LIMIT
    assert worst_error(trial.output, trial.dense) > 1e-4
    seen = trial.flat.inputs[1]
    for groups in trial.assignments if mask == "padding" else []:
        for item, group in zip(seen, groups, strict=True):
            assert not set(group[item].tolist()) & set(group[~item].tolist())


@pytest.mark.parametrize(("name", "mask"), CASES)
def test_equal_tokens_merge_without_a_trace(name: str, mask: str) -> None:
    """A witness that shares nothing with the rules: what is equal may be counted instead."""
    trial = run(name, mask, twice=True, r=TOKENS // 2, blocks=[0])
    assert trial.merges == 1
    if mask == "padding":
        # Tokens that nobody sees may merge with any of their kind.
        seen = trial.flat.inputs[1]
        assert worst_error((trial.output[0][seen],), (trial.dense[0][seen],)) <= LIMIT
    else:
        assert worst_error(trial.output, trial.dense) <= LIMIT


@pytest.mark.parametrize("name", SPELLINGS)
def test_causal_attention_is_refused(name: str) -> None:
    found = reasons(SPELLINGS[name], causal)
    assert len(found) == 2
    assert all(reason.startswith("causal attention") for reason in found), found


def square(hidden: Tensor | float = 1.0) -> Tensor:
    """(N, N) 1 where a key is later than its query."""
    return torch.ones(TOKENS, TOKENS, dtype=torch.float64).triu(1) * hidden


def cut(z: Tensor, v: Tensor) -> Tensor:
    return z.sigmoid().tril() @ v


def scaled_sum(z: Tensor, v: Tensor) -> Tensor:
    return torch.add(z, square(), alpha=-1e9).softmax(-1) @ v


def difference(z: Tensor, v: Tensor) -> Tensor:
    return (z - square(1e9)).softmax(-1) @ v


def product(z: Tensor, v: Tensor) -> Tensor:
    return (z * (1 - square())).relu() @ v


def zeros_filled(z: Tensor, v: Tensor) -> Tensor:
    z = z * (1 - square())
    return z.masked_fill(z == 0, -torch.inf).softmax(-1) @ v


def in_one_op(z: Tensor, v: Tensor) -> Tensor:
    return torch.addcmul(z, square(), square(-1e9)).softmax(-1) @ v


def interpolated(z: Tensor, v: Tensor) -> Tensor:
    return torch.lerp(z, torch.full_like(z, -1e9), square()).softmax(-1) @ v


def stacked(z: Tensor, v: Tensor) -> Tensor:
    return torch.stack([z, square(-1e9).expand_as(z)]).sum(0).softmax(-1) @ v


def cumulative(z: Tensor, v: Tensor) -> Tensor:
    """Stick-breaking attention: each key takes its share of what earlier keys left."""
    return (z - z.exp().cumsum(-1).log()).exp() @ v


def element_by_element(z: Tensor, v: Tensor) -> Tensor:
    return (z.softmax(-1).unsqueeze(-1) * v.unsqueeze(-3)).sum(-2)


def turned(z: Tensor, v: Tensor) -> Tensor:
    return (z + z.mT).softmax(-1) @ v


REFUSED = {
    cut: "causal attention",
    scaled_sum: "causal attention",
    difference: "causal attention",
    product: "causal attention",
    zeros_filled: "causal attention",
    in_one_op: "structured attention mask",
    interpolated: "structured attention mask",
    stacked: "unknown attention: its scores go through aten.stack",
    cumulative: "unknown attention: its scores go through aten.cumsum",
    element_by_element: "unknown attention: weights and values are multiplied element by element",
    turned: "unknown attention: its scores are those of several products",
}


@pytest.mark.parametrize("attend", REFUSED, ids=lambda f: f.__name__)
def test_refused_for_its_true_reason(attend: Callable[[Tensor, Tensor], Tensor]) -> None:
    found = reasons(lambda q, k, v, mask, sink: attend(q @ k.mT, v), unmasked)
    assert len(found) == 2
    assert all(reason.startswith(REFUSED[attend]) for reason in found), found


@pytest.mark.parametrize("name", ["sink_column", "plus_one_padded", "differential"])
def test_groups_count_once_in_every_softmax(name: str) -> None:
    trial = run(name, "padding", ratio=0.6, proportional=False)
    assert trial.merges == 2
    assert worst_error(trial.output, trial.simulated) <= LIMIT
    assert worst_error(trial.output, run(name, "padding", ratio=0.6).output) > 1e-4


@pytest.mark.parametrize("name", ["by_hand", "sigmoid", "log_weights"])
def test_groups_cannot_count_once_without_a_softmax(name: str) -> None:
    found = reasons(SPELLINGS[name], unmasked, proportional=False)
    assert all(reason.startswith("proportional=False counts") for reason in found)


def test_a_learned_key_beside_those_of_the_tokens() -> None:
    inputs = flat(zero_key, unmasked)
    trial = tried(rewritten(inputs, {**OPTIONS, "ratio": 0.6}), inputs)
    assert trial.merges == 2
    assert worst_error(trial.output, trial.simulated) <= LIMIT
    assert reasons(zero_key, padding)[0].startswith("unknown attention mask: it hides keys")


def test_a_chain_of_products_is_no_attention_by_itself() -> None:
    """Queries turned by a matrix that the model computes still meet their keys."""

    def rotated(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
        turn = (q.mean(-2, keepdim=True) * k.mean(-2, keepdim=True)).mT @ sink.sum().expand(1, 4)
        return ((q @ turn) @ k.mT).softmax(-1) @ v

    inputs = flat(rotated, unmasked)
    trial = tried(rewritten(inputs, {**OPTIONS, "ratio": 0.6}), inputs)
    assert [block.reason for block in trial.report.blocks] == [None, None]
    assert worst_error(trial.output, trial.simulated) <= LIMIT


class Grouped(nn.Module):
    """Four heads of queries on two of keys, which SDPA is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.mlp = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (4, 8)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2, 2, 8)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        x = x + out.transpose(1, 2).flatten(2)
        return x + self.mlp(x)


@pytest.mark.parametrize("amount", [{"ratio": 0.8}, {"r": 4}, {"flops": 0.7}])
def test_heads_that_share_keys(amount: dict[str, Any]) -> None:
    case = Case(nn.Sequential(Grouped(), Grouped()).eval(), (torch.randn(2, 24, 32),))
    assert len(assert_keeps_the_law(case.to(torch.float64), **amount).assignments) == 2

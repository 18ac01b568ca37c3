"""Attention in whatever spelling: it merges by the law, or is refused for its true reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pitome_fx.passes.biases import exact_biases
from tests.properties.spellings import LINEAR, SPELLINGS, Attend, keys_first, zero_key
from tests.properties.trial import LIMIT, Flat, Trial, rewritten, tried, worst_error

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


@pytest.mark.parametrize(("name", "mask"), CASES)
def test_spelling_keeps_the_law(name: str, mask: str) -> None:
    trial = run(name, mask, ratio=0.6)
    assert [block.reason for block in trial.report.blocks] == [None, None]
    assert worst_error(trial.output, trial.simulated) <= LIMIT
    assert worst_error(trial.output, trial.dense) > 1e-4


@pytest.mark.parametrize(("name", "mask"), CASES)
def test_equal_tokens_merge_without_a_trace(name: str, mask: str) -> None:
    """A witness that shares nothing with the rules: what is equal may be counted instead."""
    trial = run(name, mask, twice=True, r=TOKENS // 2, blocks=[0])
    assert trial.merges == 1
    assert worst_error(trial.output, trial.dense) <= LIMIT


@pytest.mark.parametrize(("name", "mask"), [case for case in CASES if case[1] == "padding"])
def test_padding_stays_among_itself(name: str, mask: str) -> None:
    trial = run(name, mask, ratio=0.6)
    seen = trial.flat.inputs[1]
    for groups in trial.assignments:
        for item, group in zip(seen, groups, strict=True):
            assert not set(group[item].tolist()) & set(group[~item].tolist())


@pytest.mark.parametrize("name", SPELLINGS)
def test_causal_attention_is_refused(name: str) -> None:
    outcome = rewritten(flat(SPELLINGS[name], causal), {**OPTIONS, "ratio": 0.6})
    reasons = [outcome.plan.refusals[site] for site in outcome.detection.sites]
    assert outcome.rewritten is None
    assert reasons
    assert all(reason.startswith("causal attention") for reason in reasons), reasons

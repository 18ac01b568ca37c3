"""Padding: merged apart from real tokens, and without influence on them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pitome_fx.testing import run_recorded
from tests.support.blocks import SPELLINGS
from tests.support.compiled import output_of
from tests.support.masked import N, masked
from tests.support.models import HUGGING_FACE, TORCH, Case, randomised
from tests.support.oracle import assert_close, assert_equal, assert_keeps_the_law, transformed


def hidden_keys() -> Tensor:
    """(2, N) True for padding; the first item has an odd number of it, the second none."""
    return torch.stack([torch.arange(N) >= 18, torch.zeros(N, dtype=torch.bool)])


PADDING: dict[str, Callable[..., Tensor]] = {
    "bool": lambda m, hidden: ~hidden[:, None, None, :],
    "bool, expanded over queries": lambda m, hidden: ~hidden[:, None, None, :].expand(2, 1, N, N),
    "float -inf": lambda m, hidden: torch.zeros(2, 1, 1, N, dtype=torch.float64).masked_fill(
        hidden[:, None, None, :], -torch.inf
    ),
    "float finfo.min": lambda m, hidden: torch.zeros(2, 1, 1, N, dtype=torch.float64).masked_fill(
        hidden[:, None, None, :], torch.finfo(torch.float64).min
    ),
    "Hugging Face": lambda m, hidden: (
        (1.0 - (~hidden)[:, None, None, :].double()) * torch.finfo(torch.float64).min
    ),
    "two masks at once": lambda m, hidden: (
        ~hidden[:, None, None, :] & torch.ones(1, 1, N, N, dtype=torch.bool)
    ),
}


def mixed_groups(assignments: list[Tensor], hidden: Tensor) -> int:
    """How many groups, over all merges and items, hold padding and real tokens."""
    return sum(
        len(set(groups[padding].tolist()) & set(groups[~padding].tolist()))
        for assignment in assignments
        for groups, padding in zip(assignment, hidden, strict=True)
    )


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", PADDING)
def test_padding_is_recognised(name: str, spelling: str) -> None:
    done = assert_keeps_the_law(masked(spelling, PADDING[name], hidden_keys()), ratio=0.8)
    assert len(done.assignments) == 2
    assert mixed_groups(done.assignments, hidden_keys()) == 0


class WithWeights(nn.Module):
    """nn.MultiheadAttention, which spells attention out where it returns the weights."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.need_weights = need_weights
        self.attend = nn.ModuleList(nn.MultiheadAttention(24, 3, batch_first=True) for _ in "12")
        self.mlp = nn.ModuleList(nn.Linear(24, 24) for _ in "12")

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        for attend, mlp in zip(self.attend, self.mlp, strict=True):
            x = x + attend(x, x, x, key_padding_mask=hidden, need_weights=self.need_weights)[0]
            x = x + mlp(x).relu()
        return x


def attention_module(need_weights: bool) -> Case:
    return Case(randomised(WithWeights(need_weights)), (torch.randn(2, N, 24), hidden_keys()))


LOWEST = torch.finfo(torch.float64).min

Weights = Callable[[Tensor, Tensor], Tensor]
"""(scores (B, N, N), hidden keys (B, 1, N)) → attention weights."""


def scaled_afterwards(scores: Tensor, hidden: Tensor) -> Tensor:
    weights = scores.softmax(-1) * ~hidden
    return weights / weights.sum(-1, keepdim=True)


class Told(nn.Module):
    """Every block hides the same padding in a way of its own."""

    def __init__(self, *ways: Weights) -> None:
        super().__init__()
        self.ways = ways
        self.qkv = nn.ModuleList(nn.Linear(24, 72) for _ in ways)
        self.mlp = nn.ModuleList(nn.Linear(24, 24) for _ in ways)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        for qkv, mlp, weights in zip(self.qkv, self.mlp, self.ways, strict=True):
            q, k, v = qkv(x).chunk(3, -1)
            x = x + weights(q @ k.mT / 24**0.5, hidden[:, None]) @ v
            x = x + mlp(x).relu()
        return x


def told(*ways: Weights) -> Case:
    return Case(randomised(Told(*ways)), (torch.randn(2, N, 24), hidden_keys()))


def test_a_mask_after_the_softmax_tells_padding_too() -> None:
    case = told(scaled_afterwards, scaled_afterwards).to(torch.float64)
    done = assert_keeps_the_law(case, ratio=0.7)
    assert len(done.assignments) == 2
    assert mixed_groups(done.assignments, hidden_keys()) == 0


MODELS: dict[str, Callable[[], Case]] = {
    "told-in-many-ways": lambda: told(
        lambda scores, hidden: scores.masked_fill(hidden, -torch.inf).softmax(-1),
        lambda scores, hidden: (scores + hidden.to(scores.dtype) * LOWEST).softmax(-1),
        lambda scores, hidden: torch.where(~hidden, scores, -1e4).softmax(-1),
    ),
    **{name: HUGGING_FACE[name] for name in ("bert", "bert-eager")},
    **{name: TORCH[name] for name in ("encoder-padded", "encoder-padded-sequence-first")},
    "attention-module": lambda: attention_module(False),
    "attention-module-with-weights": lambda: attention_module(True),
}


def padding_of(case: Case) -> Tensor:
    """(B, N) True for padding, the argument itself if it is that."""
    if "attention_mask" in case.kwargs:
        return case.kwargs["attention_mask"] == 0
    return case.kwargs.get("src_key_padding_mask", case.args[-1])


@pytest.mark.parametrize("algorithm", ["pitome", "pitome-text", "tome"])
@pytest.mark.parametrize("name", MODELS)
def test_padding_and_real_tokens_never_share_a_group(name: str, algorithm: str) -> None:
    case = MODELS[name]().to(torch.float64)
    with torch.no_grad():
        graph = transformed(case, ratio=0.7, algorithm=algorithm)
        _, assignments = run_recorded(graph, *case.args, **case.kwargs)
    assert mixed_groups(assignments, padding_of(case)) == 0


@pytest.mark.parametrize("name", MODELS)
def test_content_of_padding_has_no_influence(name: str) -> None:
    case = MODELS[name]().to(torch.float64)
    graph = transformed(case, ratio=0.7)
    hidden = padding_of(case)
    real = ~hidden.T if name.endswith("sequence-first") else ~hidden

    def real_outputs(args: Any, kwargs: Any) -> Tensor:
        with torch.no_grad():
            output = graph(*args, **kwargs)
        return (output if isinstance(output, Tensor) else output.last_hidden_state)[real]

    if case.args:
        x = case.args[0]
        args = (torch.where(real.unsqueeze(-1), x, 100 * torch.randn_like(x)), *case.args[1:])
        other = real_outputs(args, case.kwargs)
    else:
        ids = torch.where(real, case.kwargs["input_ids"], 7)
        other = real_outputs((), {**case.kwargs, "input_ids": ids})
    assert_close(other, real_outputs(case.args, case.kwargs), 1e-9)


@pytest.mark.parametrize(
    ("name", "ratio"), [*((name, 0.5) for name in MODELS), ("bert", 0.9), ("encoder-padded", 0.9)]
)
def test_an_item_of_padding_alone_is_as_finite_as_dense(name: str, ratio: float) -> None:
    case = MODELS[name]().to(torch.float64)
    if "attention_mask" in case.kwargs:
        case.kwargs["attention_mask"][-1] = 0
    else:
        padding_of(case)[-1] = True
    done = assert_keeps_the_law(case, ratio=ratio)
    with torch.no_grad():
        eager = done.graph(*case.args, **case.kwargs)
    assert_equal(output_of(case, ratio=ratio), eager)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", ["float finfo.min", "Hugging Face"])
def test_rows_of_the_lowest_float_alone_see_all_keys_alike(name: str, spelling: str) -> None:
    hidden = hidden_keys()
    hidden[1] = True
    assert_keeps_the_law(masked(spelling, PADDING[name], hidden), ratio=0.8)


@pytest.mark.parametrize("spelling", ["sdpa", "matmul"])
def test_bias_and_padding_at_once(spelling: str) -> None:
    def make(module: Any, hidden: Tensor) -> Tensor:
        return module.bias[None] + PADDING["float -inf"](module, hidden)

    done = assert_keeps_the_law(masked(spelling, make, hidden_keys()), ratio=0.8)
    assert mixed_groups(done.assignments, hidden_keys()) == 0

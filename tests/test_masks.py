"""Which attention masks allow merging: padding and learned bias do, causal and structured do not."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pitome_fx
from pitome_fx import PitomeWarning, RefusedError
from tests.support.blocks import SPELLINGS, Transformer
from tests.support.models import Case, bert, encoder, randomised
from tests.support.oracle import (
    assert_close,
    assert_equal,
    assert_keeps_the_law,
    explained,
    relative_error,
)

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


CAUSAL: dict[str, Callable[..., Tensor]] = {
    "tril of ones": lambda m: torch.ones(N, N, dtype=torch.bool).tril(),
    "not triu": lambda m: ~torch.ones(N, N).triu(1).bool(),
    "positions compared": lambda m: positions()[None, :] <= positions()[:, None],
    "float -inf": lambda m: torch.full((N, N), -torch.inf).triu(1).double(),
    "float finfo.min": lambda m: finfo_min(torch.ones(N, N).triu(1).bool()),
    "with batch and heads": lambda m: torch.ones(N, N).tril().bool().expand(2, 3, N, N),
}

STRUCTURED: dict[str, Callable[..., Tensor]] = {
    "bool buffer": lambda m: m.tril,
    "float buffer": lambda m: m.additive.double(),
    "sliding window": lambda m: (positions()[None, :] - positions()[:, None]).abs() < 5,
    "block diagonal": lambda m: positions()[None, :] // 5 == positions()[:, None] // 5,
    "prefix of the keys": lambda m: positions()[None, :] < positions()[:, None] + 7,
    "one query sees less": lambda m: torch.ones(N, N, dtype=torch.bool).index_fill(
        0, torch.tensor([N - 1]), False
    )
    | torch.eye(N, dtype=torch.bool),
}

GIVEN_STRUCTURED: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
    "given (N, N)": (lambda m, x: x, torch.ones(N, N, dtype=torch.bool).tril()),
    "given, all seen today": (lambda m, x: x, torch.ones(2, 1, N, N, dtype=torch.bool)),
    "given float": (lambda m, x: x, torch.zeros(2, 1, N, N, dtype=torch.float64)),
    "packed: equal segments attend": (
        lambda m, x: x[:, None, :, None] == x[:, None, None, :],
        (torch.arange(N) // 9).expand(2, N),
    ),
    "causal and padding": (
        lambda m, x: m.tril & x[:, None, None, :],
        torch.arange(N).expand(2, N) < 20,
    ),
    "queries hide padding too": (
        lambda m, x: (x[:, None, :, None] & x[:, None, None, :]) | torch.eye(N).bool(),
        torch.arange(N).expand(2, N) < 20,
    ),
}


def assert_runs_dense(case: Case, reason: str) -> None:
    """Every site is refused with the reason, a warning says it, and the output is the dense one."""
    report = explained(case, ratio=0.8)
    assert [block.merged for block in report.blocks] == [False, False]
    assert all(re.search(reason, str(block.reason)) for block in report.blocks)
    with pytest.warns(PitomeWarning, match=reason) as caught, torch.no_grad():
        graph = pitome_fx.transform(case.model, case.args, ratio=0.8)
        assert_equal(graph(*case.args), case.model(*case.args))
    assert len(caught) == 1
    with pytest.raises(RefusedError, match=reason):
        pitome_fx.transform(case.model, case.args, ratio=0.8, strict=True)


@pytest.mark.parametrize("spelling", ["sdpa", "matmul"])
@pytest.mark.parametrize("name", CAUSAL)
def test_causal_masks_are_refused(name: str, spelling: str) -> None:
    assert_runs_dense(masked(spelling, CAUSAL[name]), "causal")


@pytest.mark.parametrize("spelling", ["sdpa", "matmul"])
@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_masks_are_refused(name: str, spelling: str) -> None:
    assert_runs_dense(masked(spelling, STRUCTURED[name]), "causal|structured")


@pytest.mark.parametrize("spelling", ["sdpa", "matmul"])
@pytest.mark.parametrize("name", GIVEN_STRUCTURED)
def test_given_masks_that_may_differ_between_queries_are_refused(name: str, spelling: str) -> None:
    """Whatever they hold today, the next call may bring others."""
    make, given = GIVEN_STRUCTURED[name]
    assert_runs_dense(masked(spelling, make, given), "causal|structured")


@pytest.mark.parametrize("spelling", ["scaled-keys", "einsum", "bmm"])
@pytest.mark.parametrize("name", ["tril of ones", "float -inf", "bool buffer"])
def test_causal_masks_are_refused_in_every_spelling(name: str, spelling: str) -> None:
    assert_runs_dense(masked(spelling, {**CAUSAL, **STRUCTURED}[name]), "causal|structured")


def test_the_causal_flag_is_refused() -> None:
    class Causal(Transformer):
        def __init__(self) -> None:
            super().__init__(depth=2)
            for block in self.blocks:
                block.attention = causal

    def causal(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    case = Case(randomised(Causal()), (torch.randn(2, 24, 24),)).to(torch.float64)
    assert_runs_dense(case, "causal attention: a merged token would see its own future")


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


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", PADDING)
def test_padding_merges(name: str, spelling: str) -> None:
    case = masked(spelling, PADDING[name], hidden_keys())
    done = assert_keeps_the_law(case, ratio=0.8)
    assert len(done.assignments) == 2
    for groups in done.assignments:
        padded, real = set(groups[0, 18:].tolist()), set(groups[0, :18].tolist())
        assert not padded & real, "padding and real tokens never share a group"


@pytest.mark.parametrize("name", PADDING)
def test_content_of_padding_changes_nothing(name: str) -> None:
    """With a class token pooled: mean pooling would read the padding itself."""
    case = masked("sdpa", PADDING[name], hidden_keys())
    case.model.body.pool = "cls"
    graph = pitome_fx.transform(case.model, case.args, ratio=0.8, strict=True)
    x, hidden = case.args
    with torch.no_grad():
        other = torch.where(hidden[:, 1:, None], 1000 * torch.randn_like(x), x)
        assert_close(graph(other, hidden), graph(x, hidden), 1e-9)


BIAS: dict[str, Callable[..., Tensor]] = {
    "learned (H, N, N)": lambda m: m.bias[None],
    "relative positions": lambda m: m.table[positions()[None] - positions()[:, None] + N - 1]
    .permute(2, 0, 1)
    .unsqueeze(0),
    "distances": lambda m: -(positions()[None] - positions()[:, None]).abs().double() * 0.1,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", BIAS)
def test_position_bias_merges(name: str, spelling: str) -> None:
    done = assert_keeps_the_law(masked(spelling, BIAS[name]), ratio=0.8)
    assert len(done.assignments) == 2
    assert relative_error(done.output, done.dense) > 1e-4


@pytest.mark.parametrize("spelling", ["sdpa", "matmul"])
def test_bias_and_padding_at_once(spelling: str) -> None:
    def make(m: Any, hidden: Tensor) -> Tensor:
        return m.bias[None] + PADDING["float -inf"](m, hidden)

    done = assert_keeps_the_law(masked(spelling, make, hidden_keys()), ratio=0.8)
    padded, real = set(done.assignments[-1][0, 18:].tolist()), done.assignments[-1][0, :18]
    assert not padded & set(real.tolist())


ALL_PADDED: Mapping[str, Callable[[], Case]] = {
    "bert": lambda: bert(),
    "bert-eager": lambda: bert(attention="eager"),
    "encoder": lambda: encoder(padded=True),
}


@pytest.mark.parametrize("name", ALL_PADDED)
@pytest.mark.parametrize("ratio", [0.9, 0.5])
def test_a_row_of_padding_alone_is_as_finite_as_dense(name: str, ratio: float) -> None:
    case = ALL_PADDED[name]().to(torch.float64)
    for key, value in case.kwargs.items():
        if "mask" in key:
            value[-1] = key == "src_key_padding_mask"
    done = assert_keeps_the_law(case, ratio=ratio)
    with torch.no_grad():
        compiled = torch.compile(
            case.model,
            backend="pitome",
            options={"ratio": ratio, "lowering": "eager", "strict": True},
        )
        assert_equal(compiled(*case.args, **case.kwargs), done.graph(*case.args, **case.kwargs))


def test_cross_attention_is_refused() -> None:
    layer = nn.TransformerDecoderLayer(24, 3, 48, batch_first=True).eval()
    report = pitome_fx.explain(
        layer, torch.randn(2, 24, 24), torch.randn(2, 24, 24), options={"ratio": 0.8}
    )
    assert [block.merged for block in report.blocks] == [True, False]
    assert "cross-attention" in str(report.blocks[1].reason)

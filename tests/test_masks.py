"""Attention masks: causal and structured ones are refused, a learned bias on positions merges."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pitome_fx
from pitome_fx import PitomeWarning, RefusedError
from tests.support.blocks import SPELLINGS, Transformer
from tests.support.masked import N, finfo_min, masked, positions
from tests.support.models import Case, randomised
from tests.support.oracle import (
    assert_close,
    assert_equal,
    assert_keeps_the_law,
    explained,
    relative_error,
    transformed,
)

CAUSAL: dict[str, Callable[..., Tensor]] = {
    "tril of ones": lambda m: torch.ones(N, N, dtype=torch.bool).tril(),
    "not triu": lambda m: ~torch.ones(N, N).triu(1).bool(),
    "positions compared": lambda m: positions()[None, :] <= positions()[:, None],
    "float -inf": lambda m: torch.full((N, N), -torch.inf).triu(1).double(),
    "float finfo.min": lambda m: finfo_min(torch.ones(N, N).triu(1).bool()),
    "with batch and heads": lambda m: torch.ones(N, N).tril().bool().expand(2, 3, N, N),
}


def written_over(m: nn.Module) -> Tensor:
    """A learned bias, of which a corner is hidden afterwards."""
    bias: Tensor = m.bias.clone()
    bias[:, 5:, :3] = -torch.inf
    return bias


STRUCTURED: dict[str, Callable[..., Tensor]] = {
    "bool buffer": lambda m: m.tril,
    "float buffer": lambda m: m.additive.double(),
    "sliding window": lambda m: (positions()[None, :] - positions()[:, None]).abs() < 5,
    "block diagonal": lambda m: positions()[None, :] // 5 == positions()[:, None] // 5,
    "prefix of the keys": lambda m: positions()[None, :] < positions()[:, None] + 7,
    "a bias written over": written_over,
    "one query sees less": lambda m: (
        torch.ones(N, N, dtype=torch.bool).index_fill(0, torch.tensor([N - 1]), False)
        | torch.eye(N, dtype=torch.bool)
    ),
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


def distances() -> Tensor:
    return -(positions()[None] - positions()[:, None]).abs().double() * 0.1


BIAS: dict[str, Callable[..., Tensor]] = {
    "learned (H, N, N)": lambda m: m.bias[None],
    "relative positions": lambda m: (
        m.table[positions()[None] - positions()[:, None] + N - 1].permute(2, 0, 1).unsqueeze(0)
    ),
    "distances": lambda m: distances(),
    "learned, and distances": lambda m: m.bias[None] + distances(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", BIAS)
def test_position_bias_merges(name: str, spelling: str) -> None:
    done = assert_keeps_the_law(masked(spelling, BIAS[name]), ratio=0.8)
    assert len(done.assignments) == 2
    assert relative_error(done.output, done.dense) > 1e-4


@pytest.mark.parametrize("name", BIAS)
def test_a_bias_merges_alike_in_every_spelling(name: str) -> None:
    """By the mean over queries and exactly over keys, as scaled dot product attention takes it."""
    case = masked("sdpa", BIAS[name])
    with torch.no_grad():
        wanted = transformed(case, ratio=0.8)(*case.args)
        for spelling in SPELLINGS.values():
            for block in case.model.body.blocks:
                block.attention = spelling
            assert_close(transformed(case, ratio=0.8)(*case.args), wanted, 1e-9)


def test_a_mask_that_hides_nothing_costs_nothing() -> None:
    graph = transformed(masked("sdpa", lambda m: torch.ones(N, N, dtype=torch.bool)), ratio=0.8)
    assert not graph.graph.find_nodes(
        op="call_function", target=torch.ops.pitome.group_logsumexp.default
    )


def test_numbers_written_out_in_the_forward_are_known() -> None:
    """As torch.export lifts them: the slopes of ALiBi."""

    def alibi(m: nn.Module) -> Tensor:
        slopes = torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64)
        return -(positions()[None, :] - positions()[:, None]).abs() * slopes[:, None, None]

    assert len(assert_keeps_the_law(masked("sdpa", alibi), ratio=0.8).assignments) == 2


def test_cross_attention_is_refused() -> None:
    layer = nn.TransformerDecoderLayer(24, 3, 48, batch_first=True).eval()
    report = pitome_fx.explain(layer, (torch.randn(2, 24, 24), torch.randn(2, 24, 24)), ratio=0.8)
    assert [block.merged for block in report.blocks] == [True, False]
    assert "cross-attention" in str(report.blocks[1].reason)

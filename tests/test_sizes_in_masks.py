"""Attention masks made of constants and sizes alone, where the length is symbolic.

What such a mask does is known for every length, or it is refused: one that is all True at the
length at hand may hide keys at the next.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pitome_fx
from pitome_fx import PitomeWarning
from pitome_fx.testing import run_recorded, simulate
from tests.support.models import Case, randomised
from tests.support.oracle import assert_close, assert_equal, explained

N = 25


class Masked(nn.Module):
    """Two blocks of attention under one mask, which ``make(length, tokens)`` makes."""

    def __init__(self, make: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.make = make
        self.qkv = nn.ModuleList(nn.Linear(24, 72) for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(24, 96), nn.GELU(), nn.Linear(96, 24)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        mask = self.make(x.shape[1], x)
        for qkv, mlp in zip(self.qkv, self.mlp, strict=True):
            q, k, v = qkv(x).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
            x = x + F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
            x = x + mlp(x)
        return x


def case(make: Callable[[Any, Tensor], Tensor], tokens: int = N) -> Case:
    x = torch.randn(2, tokens, 24)
    return Case(randomised(Masked(make)), (x,)).to(torch.float64)


def program(
    made: Case, longest: int | None = None, shortest: int = 4
) -> torch.export.ExportedProgram:
    """An export whose length is symbolic."""
    length = torch.export.Dim("length", min=shortest, max=longest)
    return torch.export.export(made.model, made.args, dynamic_shapes=({1: length},))


def behind(n: Any) -> Tensor:
    """How far a key (column) is behind a query (row)."""
    return torch.arange(n)[None] - torch.arange(n)[:, None]


def near(width: int) -> Callable[[Any, Tensor], Tensor]:
    """Queries see keys within a width."""
    return lambda n, x: behind(n).abs() < width


ALL_SEEN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "ones": lambda n, x: torch.ones(n, n, dtype=torch.bool),
    "ones like the tokens": lambda n, x: x.new_ones(n, n) > 0,
    "zeros": lambda n, x: torch.zeros(x.shape[0], 1, n, n, dtype=x.dtype),
    "positions are not negative": lambda n, x: (torch.arange(n) + 0 >= 0)[
        None, None, :, None
    ].expand(x.shape[0], -1, n, n),
    "positions are below the length": lambda n, x: (torch.arange(n) < n).expand(n, n),
    "nearer than the length": lambda n, x: behind(n).abs() < n,
    "a triangle of everything": lambda n, x: torch.ones(n, n).tril(n - 1).bool(),
    "the other triangle": lambda n, x: ~torch.ones(n, n).triu(n).bool(),
    "one less ones": lambda n, x: (
        (1.0 - torch.ones(n, n)) * torch.finfo(torch.float32).min
    ).double(),
    "nothing is filled": lambda n, x: x.new_zeros(n, n).masked_fill(behind(n) >= n, -math.inf),
    "where": lambda n, x: torch.where(behind(n) > -n, 0.0, -math.inf).double(),
    "causal or anything": lambda n, x: (behind(n) <= 0) | torch.ones(n, n, dtype=torch.bool),
}

CAUSAL: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "positions compared": lambda n, x: behind(n) <= 0,
    "tril": lambda n, x: torch.ones(n, n, dtype=torch.bool).tril(),
    "triu of -inf": lambda n, x: torch.full((n, n), -math.inf, dtype=x.dtype).triu(1),
    "filled": lambda n, x: x.new_zeros(n, n).masked_fill(behind(n) > 0, -1e9),
    "causal and sliding": lambda n, x: (behind(n) <= 0) & (behind(n) > -64),
}

STRUCTURED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "sliding": near(5),
    "sliding, wider than the text": near(64),
    "sliding floats, wider than the text": lambda n, x: x.new_zeros(n, n).masked_fill(
        behind(n).abs() >= 64, -math.inf
    ),
    "a triangle, wider than the text": lambda n, x: torch.ones(n, n).tril(64).bool(),
    "chunks, longer than the text": lambda n, x: (
        torch.arange(n)[None] // 100 == torch.arange(n)[:, None] // 100
    ),
    "half of the text": lambda n, x: behind(n).abs() < n // 2,
    "all but oneself": lambda n, x: ~torch.eye(n, dtype=torch.bool),
    "positions that wrap round": lambda n, x: (torch.arange(n).to(torch.int8) >= 0)[:, None].expand(
        n, n
    ),
    "positions that are rounded up": lambda n, x: (torch.arange(n).to(torch.bfloat16) < n)[
        :, None
    ].expand(n, n),
}


@pytest.mark.parametrize("name", ALL_SEEN)
def test_a_mask_that_hides_nothing_at_any_length_is_none(name: str) -> None:
    made = case(ALL_SEEN[name])
    exported = program(made)
    merged = pitome_fx.transform(exported, ratio=0.8, strict=True)
    assert isinstance(merged, torch.export.ExportedProgram)
    match = torch.ops.pitome.match.default
    matches = merged.graph.find_nodes(op="call_function", target=match)
    assert [node.args[2] for node in matches] == [None, None]  # no padding
    for tokens in (N, 40):
        x = torch.randn(2, tokens, 24, dtype=torch.float64)
        with torch.no_grad():
            output, assignments = run_recorded(merged.module(), x)
            assert len(assignments) == 2
            assert_close(output, simulate(exported, (x,), ratio=0.8), 1e-9)


@pytest.mark.parametrize("name", ["ones", "zeros", "positions are below the length"])
def test_masks_are_judged_alike_wherever_the_user_makes_tensors(name: str) -> None:
    exported = program(case(ALL_SEEN[name]))
    here = pitome_fx.transform(exported, ratio=0.8, strict=True)
    with torch.device("meta"):
        elsewhere = pitome_fx.transform(exported, ratio=0.8, strict=True)
    assert isinstance(here, torch.export.ExportedProgram)
    assert isinstance(elsewhere, torch.export.ExportedProgram)
    assert elsewhere.graph_module.code == here.graph_module.code


def refused(exported: torch.export.ExportedProgram, reason: str) -> None:
    with pytest.warns(PitomeWarning, match=reason):
        same = pitome_fx.transform(exported, ratio=0.8)
    assert same is exported


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_masks_are_refused_by_their_name(name: str) -> None:
    made = case(CAUSAL[name])
    refused(program(made), "causal attention mask")
    assert all("causal" in str(block.reason) for block in explained(made).blocks)


@pytest.mark.parametrize("name", STRUCTURED)
def test_masks_that_hide_something_at_some_length_are_refused(name: str) -> None:
    refused(program(case(STRUCTURED[name])), "structured attention mask")


def test_a_promised_length_may_show_that_a_window_hides_nothing() -> None:
    made = case(near(64))
    pitome_fx.transform(program(made, 64), ratio=0.8, strict=True)
    refused(program(made, 65), "structured attention mask")


def test_keys_hidden_at_the_same_place_from_all_are_padding() -> None:
    made = case(lambda n, x: (torch.arange(n) < 20).expand(n, n))
    exported = program(made)
    merged = pitome_fx.transform(exported, ratio=0.8, strict=True)
    for tokens in (N, 40, 12):
        x = torch.randn(2, tokens, 24, dtype=torch.float64)
        with torch.no_grad():
            output, assignments = run_recorded(merged.module(), x)
            assert_close(output, simulate(exported, (x,), ratio=0.8), 1e-9)
            assert all(not _mixes(groups[0], 20) for groups in assignments)


def _mixes(groups: Tensor, cut: int) -> bool:
    """Is a token before the cut in one group with a token after it?"""
    return bool(set(groups[:cut].tolist()) & set(groups[cut:].tolist()))


def written(n: Any, x: Tensor) -> Tensor:
    mask = torch.ones(n, n, dtype=torch.bool)
    mask[5:, :3] = False
    return mask


def filled(n: Any, x: Tensor) -> Tensor:
    mask = x.new_zeros(n, n)
    mask[5:, :3].fill_(-math.inf)
    return mask


@pytest.mark.parametrize("make", [written, filled])
@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_a_mask_written_in_place_is_not_what_it_was_made_as(
    make: Callable[[Any, Tensor], Tensor], symbolic: bool
) -> None:
    made = case(make)
    if symbolic:
        # From fewer tokens than are written torch.export itself makes no guard of the slices.
        refused(program(made, shortest=8), "structured attention mask")
        return
    with pytest.warns(PitomeWarning, match=re.escape("structured attention mask")):
        graph = pitome_fx.transform(made.model, made.args, ratio=0.8)
    with torch.no_grad():
        assert_equal(graph(*made.args), made.model(*made.args))

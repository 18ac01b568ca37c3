"""How many tokens a merge leaves: the closed form against its definition, block by block."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from pitome_fx.passes.plan.amount import Amount, Number, Q, Share, chained

COUNTS = st.integers(0, 5000)


def counts(amounts: list[Amount], tokens: int) -> list[tuple[int, int]]:
    """Before and after each of several merges of one stream."""
    chain = chained(("stream", amount) for amount in amounts)
    return [tuple(map(int, amount.counts(tokens))) for amount in chain]  # type: ignore[misc]


@given(COUNTS, st.lists(st.integers(Q // 2, Q), min_size=1, max_size=24))
def test_a_share_is_kept_of_every_block(tokens: int, kept: list[int]) -> None:
    exact = float(tokens)
    for p, (before, after) in zip(kept, counts([Share(p) for p in kept], tokens), strict=True):
        assert 0 <= before - after <= before // 2
        exact *= p / Q
        # c_i is rounded up in each block, by less than 1/q.
        assert exact - 1e-6 <= after < exact + 1 + tokens * len(kept) / Q


@given(COUNTS, st.integers(0, 600), st.integers(1, 24))
def test_a_number_goes_from_every_block_or_half_of_it(tokens: int, r: int, blocks: int) -> None:
    left = tokens
    for before, after in counts([Number(r)] * blocks, tokens):
        assert before == left
        left -= min(r, left // 2)
        assert after == left


@pytest.mark.parametrize("amount", [Share(9000), Share(5000), Number(3), Number(40)], ids=str)
def test_symbolic_counts_are_the_known_ones(amount: Amount) -> None:
    """In particular at lengths other than the one that a symbol stands for at first."""
    env = ShapeEnv()
    chain = chained([("stream", amount)] * 5)
    symbol = env.create_unbacked_symint()
    torch._check(symbol >= 0)
    for tokens in (0, 1, 2, 7, 24, 100):
        for one in chain:
            left = one.counts(symbol)[1]
            assert isinstance(left, torch.SymInt)
            value = left.node.expr.xreplace({symbol.node.expr: tokens})
            assert int(value) == one.counts(tokens)[1]


def test_streams_are_counted_apart() -> None:
    first, other, second = chained([("a", Share(5000)), ("b", Share(8000)), ("a", Share(5000))])
    assert [x.counts(100) for x in (first, other, second)] == [(100, 50), (100, 80), (50, 25)]

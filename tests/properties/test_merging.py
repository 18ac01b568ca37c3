"""Laws of merging itself, over drawn merges: (d) groups, (e) merge and lift, (h) order, (n) ops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from pitome_fx.ops import OPS
from tests.properties import share
from tests.properties.merging import ENERGY, Merging, State, arguments, mergings, ops, states

MANY = share(10)
EXACT = 1e-12


def lift(x: Tensor, state: State) -> Tensor:
    """One merge undone."""
    return ops.unmerge(x, ops.assignment(*state.step))


def merge(x: Tensor, state: State) -> Tensor:
    return ops.merge(x, state.before, *state.step)


@MANY
@given(mergings())
def test_d_groups_partition_the_tokens(merging: Merging) -> None:
    for state in states(merging):
        groups = state.size.shape[1]
        for item in range(merging.batch):
            counts = state.assign[item].bincount(minlength=groups)
            assert len(counts) == groups
            assert torch.equal(counts.double(), state.size[item])
            assert (counts > 0).all()
            front, back = merging.front, merging.back
            assert (counts[:front] == 1).all() and (counts[groups - back :] == 1).all()
            places = state.assign[item]
            assert places[:front].tolist() == list(range(front))
            last = places[merging.tokens - back :]
            assert last.tolist() == list(range(groups - back, groups))


@MANY
@given(mergings())
def test_d_padding_and_real_tokens_never_share_a_group(merging: Merging) -> None:
    padding = merging.padding()
    assume(padding is not None)
    assert padding is not None
    for state in states(merging):
        for groups, hidden in zip(state.assign, padding, strict=True):
            assert not set(groups[hidden].tolist()) & set(groups[~hidden].tolist())


@MANY
@given(mergings())
def test_e_what_was_lifted_merges_to_what_it_was(merging: Merging) -> None:
    for state in states(merging):
        y = state.metric
        torch.testing.assert_close(merge(lift(y, state), state), y, rtol=EXACT, atol=EXACT)


@MANY
@given(mergings())
def test_e_merging_and_lifting_twice_is_once(merging: Merging) -> None:
    x = merging.metric()
    for state in states(merging):
        once = lift(merge(x, state), state)
        torch.testing.assert_close(lift(merge(once, state), state), once, rtol=EXACT, atol=EXACT)
        x = state.metric


@MANY
@given(mergings())
def test_e_merges_in_a_row_are_the_mean_over_all_members(merging: Merging) -> None:
    x = merging.metric()
    for state in states(merging):
        plain = ops.project(x, state.assign, state.size)
        torch.testing.assert_close(state.metric, plain, rtol=EXACT, atol=EXACT)


@MANY
@given(mergings(ENERGY), st.randoms(use_true_random=False))
def test_h_the_order_of_unprotected_tokens_has_no_influence(
    merging: Merging, random: object
) -> None:
    merging = Merging(**{**vars(merging), "hidden": (), "shares": merging.shares[:1]})
    order = list(range(merging.front, merging.tokens - merging.back))
    random.shuffle(order)  # type: ignore[attr-defined]
    order = [*range(merging.front), *order, *range(merging.tokens - merging.back, merging.tokens)]
    straight = states(merging)
    shuffled = states(merging, merging.metric()[:, order])
    for a, b in zip(straight, shuffled, strict=True):
        assert [partition(row, order) for row in b.assign] == [
            partition(row, list(range(merging.tokens))) for row in a.assign
        ]


def partition(groups: Tensor, names: list[int]) -> set[frozenset[int]]:
    """The groups of one item as sets of token names."""
    found: dict[int, set[int]] = {}
    for name, group in zip(names, groups.tolist(), strict=True):
        found.setdefault(group, set()).add(name)
    return {frozenset(members) for members in found.values()}


@pytest.mark.parametrize("name", OPS)
@share(0.2)
@given(mergings())
def test_n_every_op_passes_opcheck(name: str, merging: Merging) -> None:
    first = states(merging)[:1]
    assume(first)
    torch.library.opcheck(
        getattr(ops, name).default, arguments(name, first[0], merging.metric(), merging)
    )

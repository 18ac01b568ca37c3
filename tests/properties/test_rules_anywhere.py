"""Every token rule with any operand merged, along any of its dimensions.

A model may hand an op tokens where nobody thought of them: as a table to look up in, as the slopes
of an activation, with the tokens where the channels are wont to be. A rule acts or gives up; it
may not be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Node

from pitome_fx.passes.axes import Atom, TokenTensor
from pitome_fx.passes.capture import Program
from pitome_fx.passes.masks import Masks
from pitome_fx.passes.replay import Replay
from pitome_fx.passes.spaces import TokenSpace, merged_space
from tests.properties.test_rules import ALL_CASES, Merged, traced

PLAIN = Merged(batch=2, tokens=12, channels=6, front=1, back=0, groups=7, seed=0)


@pytest.mark.parametrize("name", ALL_CASES)
def test_rule_keeps_the_law_anywhere(name: str) -> None:
    case = ALL_CASES[name]
    program = traced(case, PLAIN)
    generator = torch.Generator().manual_seed(0)
    shapes = [PLAIN.shape(letters) for letters in ("BNC", *case.operands)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    for which, dim, batch in places(tensors):
        groups = Groups(tensors[which], dim, batch, generator)
        replay, result = replay_with(program, tensors, which, groups)
        given = tensors
        if replay.projections:
            # What is merged along is replaced by means; those of a constant are the constant.
            given = [x if i == which else torch.full_like(x, 0.5) for i, x in enumerate(tensors)]
            _, result = replay_with(program, given, which, groups)
        expected = case.f(*(groups.dense if i == which else x for i, x in enumerate(given)))
        where = f"operand {which} merged along {dim}, by the items of {batch}"
        torch.testing.assert_close(
            result, expected, rtol=1e-9, atol=1e-9, msg=lambda text, where=where: f"{where}: {text}"
        )


def places(tensors: list[Tensor]) -> Iterator[tuple[int, int, int | None]]:
    """(operand, dimension to merge along, dimension whose items each have groups of their own)."""
    for which, x in enumerate(tensors):
        long = [d for d, size in enumerate(x.shape) if size > 1]
        for dim in long:
            yield from ((which, dim, batch) for batch in (None, *long) if batch != dim)


class Groups:
    """A tensor in groups along one dimension, every token of which has the value of the first.

    Attributes:
        dense: the tensor with every token replaced by its group's first one.
        merged: those first ones alone.
    """

    def __init__(self, x: Tensor, dim: int, batch: int | None, generator: torch.Generator) -> None:
        self.dim, self.batch = dim, batch
        count = x.shape[dim]
        items = 1 if batch is None else x.shape[batch]
        groups = int(torch.randint(1, count, (1,), generator=generator))
        rows = [draw_row(count, groups, generator) for _ in range(items)]
        kept, moved, target = (torch.stack(part) for part in zip(*rows, strict=True))
        self.step = (kept, moved, target)
        assign = torch.ops.pitome.assignment(kept, moved, target)
        self.dense = self._picked(x, kept.gather(1, assign))
        self.merged = self._picked(x, kept)

    def _picked(self, x: Tensor, index: Tensor) -> Tensor:
        """Tokens (B, K) of x."""
        if self.batch is None:
            return x.index_select(self.dim, index[0])
        rows = x.movedim((self.batch, self.dim), (0, 1))
        own = index.reshape(*index.shape, *[1] * (rows.dim() - 2)).expand(-1, -1, *rows.shape[2:])
        return rows.gather(1, own).movedim((0, 1), (self.batch, self.dim)).contiguous()

    def tokens(self, value: TokenTensor) -> TokenTensor:
        """The labelled value in these groups."""
        axis = value.dims[self.dim][0].axis
        batch = () if self.batch is None else (value.dims[self.batch][0].axis,)
        size = self.merged.new_ones(self.step[0].shape[0], value.data.shape[self.dim])
        space: TokenSpace = merged_space(axis, batch, None, self.step, size, 0, 0, frozenset(), 0)
        dims = (*value.dims[: self.dim], (Atom(axis, space),), *value.dims[self.dim + 1 :])
        return TokenTensor(self.merged, dims, tainted=True)


def draw_row(count: int, groups: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One item's kept tokens, moved tokens, and the groups that these go to."""
    order = torch.randperm(count, generator=generator)
    kept, moved = order[:groups].sort().values, order[groups:].sort().values
    return kept, moved, torch.randint(0, groups, (count - groups,), generator=generator)


def replay_with(
    program: Program, tensors: list[Tensor], which: int, groups: Groups
) -> tuple[Replay, Any]:
    """Replay in eager with one input merged."""
    masks = Masks({}, frozenset())
    labelling = Replay(program.graph, frozenset(), masks)
    labelling.run(*program.inputs)
    holder = program.graph.graph.find_nodes(op="placeholder")[which]

    def merge(replay: Replay, node: Node, value: Any) -> Any:
        return groups.tokens(value) if node is holder else value

    replay = Replay(program.graph, frozenset(), masks, labelling.labels, after=merge)
    return replay, replay.run(*tensors)

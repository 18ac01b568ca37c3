"""Outputs that stay merged, for whoever goes on with fewer tokens, and the groups of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import Node

from pitome_fx.passes.replay.interpreter import Replay
from pitome_fx.passes.replay.outputs import DenseOutputs
from pitome_fx.passes.tokens.dims import TokenTensor
from pitome_fx.passes.tokens.moves import places
from pitome_fx.passes.tokens.spaces import TokenSpace


@dataclass(frozen=True)
class MergedOutput:
    """An output one dimension of which holds groups of tokens.

    Attributes:
        position: among the outputs of the graph.
        dim: the dimension of the groups.
        batch: the dimensions along which every item has its own groups, outermost first.
    """

    position: int
    dim: int
    batch: tuple[int, ...]


class MergedOutputs:
    """The outputs of a replay, merged where they may be, and behind them the groups of these.

    Args:
        allowed: positions of the outputs that may stay merged.

    Attributes:
        merged: those that did. For each the graph returns, after all its outputs, the sizes
            (B, N') and the assignment (B, N) of the groups.
        refused: positions of those that are unmerged all the same, with the reason.
    """

    def __init__(self, allowed: frozenset[int]) -> None:
        self.allowed = allowed
        self.merged: list[MergedOutput] = []
        self.refused: dict[int, str] = {}

    def __call__(self, replay: Replay, output: Node) -> list[Any]:
        sources: Any = output.args[0]
        values: list[Any] = [torch.fx.node.map_arg(s, replay.env.__getitem__) for s in sources]
        groups: list[Tensor] = []
        for position in sorted(self.allowed):
            value = values[position]
            if isinstance(value, TokenTensor) and value.merged:
                groups += self._groups(position, value)
        merged = {output.position for output in self.merged}
        others = [s for i, s in enumerate(sources) if isinstance(s, Node) and i not in merged]
        dense = DenseOutputs(replay, output, others)
        returned = [
            value.data
            if position in merged
            else pytree.tree_map_only(TokenTensor, dense.promised, value)
            for position, value in enumerate(values)
        ]
        return [*returned, *groups]

    def _groups(self, position: int, x: TokenTensor) -> list[Tensor]:
        """Sizes and assignment of an output that stays merged; nothing for one that cannot."""
        (dim, _), *more = places(x)
        if more:
            self.refused[position] = "tokens are merged in more than one dimension of it"
            return []
        (space,) = x.spaces()
        batch = _batch(x, space)
        if len(x.dims[dim]) > 1 or batch is None:
            self.refused[position] = "tokens share a dimension of it with something else"
            return []
        self.merged.append(MergedOutput(position, dim, batch))
        return [space.size, space.assign]


def _batch(x: TokenTensor, space: TokenSpace) -> tuple[int, ...] | None:
    """The dimensions of the items that merge each on their own; None if they hold more than that.

    Outermost first.
    """
    place = {atom.axis: d for d, dim in enumerate(x.dims) for atom in dim}
    dims = tuple(dict.fromkeys(place[axis] for axis in space.batch))
    held = tuple(atom.axis for d in dims for atom in x.dims[d])
    return dims if held == space.batch else None

"""What a plan would cost, before anything is rewritten."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils.flop_counter import FlopCounterMode

from pitome_fx.algorithms import ALGORITHMS
from pitome_fx.algorithms.registry import NEEDS
from pitome_fx.ops import OPS
from pitome_fx.options import Options
from pitome_fx.passes.aten.families import SDPA
from pitome_fx.passes.capture.program import Program
from pitome_fx.passes.detect.detection import Block
from pitome_fx.passes.plan.flops import FlopCounter
from pitome_fx.passes.replay.labels import Labels
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.sizes import Size, hint

SizeOf = Callable[[Size], int]


class CostModel:
    """FLOPs of a program as a function of the token counts after each of its merges.

    A product that runs over e token dimensions costs (n/N)^e of its dense FLOPs on n of N tokens;
    which n that is, the merge points upstream of it say.

    Args:
        size_of: what a symbolic size is taken for.
    """

    def __init__(
        self, program: Program, labels: Labels, blocks: Sequence[Block], size_of: SizeOf = hint
    ) -> None:
        self.blocks = list(blocks)
        self.program = program
        self.labels = labels
        self.size_of = size_of
        self.dense = 0
        self.terms: dict[tuple[tuple[int, int], ...], int] = {}
        counter = FlopCounter(size_of)
        levels = levels_of(program, self.blocks)
        for node in program.graph.graph.nodes:
            flops = counter.of(node)
            self.dense += flops
            term = self._term(node, labels, levels[node].values()) if flops else ()
            if term:
                self.terms[term] = self.terms.get(term, 0) + flops

    def at(self, size_of: SizeOf) -> CostModel:
        """The same for other sizes."""
        return CostModel(self.program, self.labels, self.blocks, size_of)

    def _term(
        self, node: Node, labels: Labels, merges: Iterable[int]
    ) -> tuple[tuple[int, int], ...]:
        """(merge, exponent) of each token axis that a product runs over."""
        found = ((at, _exponent(node, labels, self.blocks[at])) for at in merges)
        return tuple((at, exponent) for at, exponent in found if exponent)

    def runs_after(self, merge: int) -> bool:
        """Does any product run on the tokens of this merge or of a later one?"""
        axis = self.blocks[merge].axis
        return any(
            self.blocks[at].axis is axis and at >= merge for term in self.terms for at, _ in term
        )

    def fraction(
        self, shares: Sequence[tuple[float, float]], keep: Sequence[float], options: Options
    ) -> float:
        """FLOPs left, as a fraction of the dense program's.

        Args:
            shares: of each block's N tokens, what is left before and after its merge.
            keep: the keep ratio of each block.
            options: with all defaults resolved; what matching costs is the algorithm's.
        """
        if not self.dense:
            return 1.0
        total = float(self.dense)
        for term, flops in self.terms.items():
            left = 1.0
            for at, exponent in term:
                left *= shares[at][1] ** exponent
            total -= flops * (1 - left)
        for block, (before, _), ratio in zip(self.blocks, shares, keep, strict=True):
            if ratio == 1:
                continue
            # Matching and merging fall with n².
            total += merge_overhead(block, ratio, options, self.size_of) * before**2
        return total / self.dense


def levels_of(program: Program, blocks: Sequence[Block]) -> dict[Node, dict[Axis, int]]:
    """The last merge upstream of every node, for each token axis."""
    at_point = {block.point: i for i, block in enumerate(blocks)}
    levels: dict[Node, dict[Axis, int]] = {}
    for node in program.graph.graph.nodes:
        found: dict[Axis, int] = {}
        for source in node.all_input_nodes:
            # A merge point itself still runs on the tokens before.
            here = dict(levels[source])
            if source in at_point:
                here[blocks[at_point[source]].axis] = at_point[source]
            for axis, merge in here.items():
                found[axis] = max(merge, found.get(axis, -1))
        levels[node] = found
    return levels


def token_axes(block: Block) -> set[Axis]:
    """The axis of the tokens that a block merges."""
    return {atom.axis for atom in block.site.query_dim[:1]}


def _exponent(node: Node, labels: Labels, block: Block) -> int:
    """How many of the dimensions that a product runs over are the block's token axis."""
    axes = token_axes(block)
    operands = [labels.dims[source] for source in node.all_input_nodes]
    if node.target == SDPA:
        return sum(_holds(dims, axes) for dims in operands[:2])
    # Each dimension of a product shows twice among its operands and its result.
    return (sum(_holds(dims, axes) for dims in (*operands, labels.dims[node])) + 1) // 2


def _holds(dims: Any, axes: set[Axis]) -> int:
    return sum(dimensions_of(dims, axes))


def dimensions_of(dims: Any, axes: Container[Axis]) -> list[bool]:
    """Which dimensions of a value hold one of the axes; none where it is not labelled."""
    if not isinstance(dims, tuple):
        return []
    return [any(atom.axis in axes or atom.axis.base in axes for atom in dim) for dim in dims]


def merge_overhead(block: Block, keep: float, options: Options, size_of: SizeOf = hint) -> float:
    """FLOPs of matching and merging once on all tokens of the stream, keeping a share of them."""
    given = compared(block, options, size_of)
    loose = max(given.tokens - block.front - block.back, 0)
    removed = loose * (1 - keep)
    matching = _matching_flops(
        options.algorithm,
        json.dumps(dict(options.algorithm_options)),
        loose,
        given.features,
        given.width,
        round(removed),
    )
    return given.batch * (matching + 2.0 * (given.tokens - removed) * removed * given.width)


class Compared(NamedTuple):
    """Sizes of what a match is given: (batch, tokens, features), of tokens of some width."""

    batch: int
    tokens: int
    features: int
    width: int


def compared(block: Block, options: Options, size_of: SizeOf) -> Compared:
    """What is compared where a block merges first, on all of its tokens."""
    keys, point = block.site.keys.meta["val"], block.point.meta["val"]
    tokens = size_of(block.axis.size)
    batch = 1
    for axis in block.batch:
        batch *= size_of(axis.size)
    width = size_of(point.numel()) // (tokens * batch)
    features = size_of(keys.shape[block.site.feature_place])
    return Compared(batch, tokens, width if options.metric == "hidden" else features, width)


def stand_ins(algorithm: str, metric: Tensor, hidden: Tensor) -> list[Tensor | None]:
    """What an algorithm needs beside a metric (B, N, F), in the order of ``NEEDS``.

    Args:
        hidden: (B, N, C).
    """
    position = torch.arange(metric.shape[1], device=metric.device)
    made = {
        "hidden": hidden,
        "queries": metric.unsqueeze(1),
        "keys": metric.unsqueeze(1),
        "importance": metric[..., 0],
        "position": position.expand(metric.shape[:2]),
    }
    return [made[need] if need in ALGORITHMS[algorithm].needs else None for need in NEEDS]


@lru_cache(maxsize=4096)
def _matching_flops(
    algorithm: str, parameters: str, tokens: int, features: int, width: int, removed: int
) -> int:
    """FLOPs of one match of one item, by running it on tensors without values."""
    metric = torch.empty(1, tokens, features, device="meta")
    asked = stand_ins(algorithm, metric, metric.new_empty(1, tokens, width))
    with FlopCounterMode(display=False) as counter:
        OPS["match"].body(
            metric, metric[..., 0], None, algorithm, removed, 0, 0, 0, 1, parameters, *asked
        )
    return int(counter.get_total_flops())

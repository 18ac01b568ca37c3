"""The ops of a program, each described so that equal ones are measured once."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from pitome_fx.clock import Call
from pitome_fx.ops import OPS
from pitome_fx.options import Options
from pitome_fx.passes.aten.families import COSTLY, SDPA
from pitome_fx.passes.capture.program import Program
from pitome_fx.passes.capture.subclasses import op_of
from pitome_fx.passes.detect.detection import Block
from pitome_fx.passes.plan.cost import (
    SizeOf,
    compared,
    dimensions_of,
    levels_of,
    stand_ins,
    token_axes,
)
from pitome_fx.passes.replay.labels import Labels
from pitome_fx.passes.tokens.axes import Axis

SHARES = (0.2, 0.45, 0.7, 1.0)
"""Of the tokens: where ops are measured. Between these, time is taken to be linear."""

REMOVED = (0.05, 0.4)
"""Of the tokens: what matching and merging is measured for."""


class Ops:
    """The ops of a program with what describes them.

    Args:
        options: with all defaults resolved; what matching is, is the algorithm's.
        size_of: what a symbolic size is taken for.

    Attributes:
        calls: makes what is to be measured, by its description.
        fixed: descriptions of ops that no merge touches.
        on_tokens: of the others the last merge before them, and what describes them on all tokens
            and on each of ``SHARES``.
        matching: for each block what describes matching and merging, by ``REMOVED`` and ``SHARES``.
    """

    def __init__(
        self,
        program: Program,
        labels: Labels,
        blocks: Sequence[Block],
        options: Options,
        size_of: SizeOf,
    ) -> None:
        self.calls: dict[str, Callable[[], Call]] = {}
        self.fixed: list[str] = []
        self.on_tokens: list[tuple[int, str, list[str]]] = []
        self.size_of = size_of
        levels = levels_of(program, blocks)
        for node in program.graph.graph.nodes:
            if not _is_timed(node):
                continue
            merges = [m for m in levels[node].values() if _runs_on(node, labels, blocks[m])]
            if merges:
                # On several token axes, as good as never: the one merged last counts.
                merge = max(merges)
                axes = token_axes(blocks[merge])
                dense = self.describe(node, labels, axes, 1.0, False)
                weighed = options.proportional
                shares = [self.describe(node, labels, axes, s, weighed) for s in SHARES]
                self.on_tokens.append((merge, dense, shares))
            else:
                self.fixed.append(self.describe(node, labels, (), 1.0, False))
        self.matching = [
            [[self.match(block, options, share, gone) for share in SHARES] for gone in REMOVED]
            for block in blocks
        ]

    def describe(
        self, node: Node, labels: Labels, axes: Container[Axis], share: float, weighed: bool
    ) -> str:
        """An op on a share of its tokens.

        Args:
            weighed: attention without a mask gets one, as log sizes are added to its scores.
        """
        op = op_of(node)
        wide = node.meta["val"].dtype if op in COSTLY else None

        def operand(source: Node) -> Any:
            value = source.meta.get("val")
            if not isinstance(value, Tensor):
                return value
            scaled = dimensions_of(labels.dims.get(source), axes) or [False] * value.dim()
            return _Operand.of(value, scaled, share, self.size_of, wide)

        args: tuple[Any, ...]
        kwargs: dict[str, Any]
        args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), operand)
        args, kwargs = pytree.tree_map_only(torch.SymInt, self.size_of, (args, kwargs))
        if weighed and op == SDPA and len(args) == 3 and "attn_mask" not in kwargs:
            key = args[1]
            shape = (*key.shape[:-3], *(1 for _ in key.shape[-3:-1]), key.shape[-2])
            kwargs = {**kwargs, "attn_mask": _Operand(shape, key.dtype, key.device)}
        name = f"{op} {args} {kwargs}"
        self.calls[name] = lambda: _call(op, args, kwargs)
        return name

    def match(self, block: Block, options: Options, share: float, gone: float) -> str:
        """Matching and merging of a share of a block's tokens, of which another share goes."""
        point = block.point.meta["val"]
        batch, tokens, features, width = compared(block, options, self.size_of)
        n = max(2, round(tokens * share))
        k = max(1, round((n - block.front - block.back) * gone))
        parameters = json.dumps(dict(options.algorithm_options))
        name = (
            f"match {options.algorithm} {parameters} ({batch}, {n}, {features}) of {width} "
            f"{point.dtype} k={k} alone={block.front},{block.back}"
        )

        def make() -> Call:
            x = torch.rand(batch, n, width, dtype=point.dtype, device=point.device)
            metric = x[..., :features].contiguous()
            size = torch.ones(batch, n, device=x.device)
            asked = stand_ins(options.algorithm, metric, x)
            how = (options.algorithm, k, block.front, block.back, 0, 1, parameters)

            def call() -> object:
                match = OPS["match"].body(metric, size, None, *how, *asked)
                merged = OPS["merge"].body(x, size, *match)
                return merged, OPS["merge_size"].body(size, *match)

            return call

        self.calls[name] = make
        return name


@dataclass(frozen=True)
class _Operand:
    """A tensor to be made when it is needed; its text describes it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    order: tuple[int, ...] | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        scaled: Sequence[bool],
        share: float,
        size_of: SizeOf,
        wide: torch.dtype | None,
    ) -> _Operand:
        """Like a tensor, but for the lengths of some dimensions, and the dtype of floats."""
        sizes = [size_of(n) for n in x.shape]
        shape = tuple(
            max(1, round(n * share)) if s else n for n, s in zip(sizes, scaled, strict=True)
        )
        strides = [size_of(n) for n in x.stride()]
        order = tuple(sorted(range(x.dim()), key=lambda i: (-strides[i], i)))
        dtype = wide if wide is not None and x.dtype.is_floating_point else x.dtype
        return cls(shape, dtype, x.device, None if order == tuple(range(x.dim())) else order)

    def __repr__(self) -> str:
        order = "" if self.order is None else f"@{''.join(map(str, self.order))}"
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}{order}"

    def make(self) -> Tensor:
        """Random floats, zeros of other types."""
        order = self.order or tuple(range(len(self.shape)))
        x = torch.empty_permuted(self.shape, order, dtype=self.dtype, device=self.device)
        return x.uniform_() if self.dtype.is_floating_point else x.zero_()


def _call(op: OpOverload, args: Any, kwargs: Any) -> Call:
    args, kwargs = pytree.tree_map_only(_Operand, _Operand.make, (args, kwargs))
    return lambda: op(*args, **kwargs)


def _is_timed(node: Node) -> bool:
    """Does the node compute something that can be run by itself?"""
    op = op_of(node)
    return (
        node.op == "call_function"
        and isinstance(op, OpOverload)
        and not op._schema.is_mutable
        and any(isinstance(x, Tensor) for x in pytree.tree_leaves(node.meta.get("val")))
    )


def _runs_on(node: Node, labels: Labels, block: Block) -> bool:
    """Does the node read or yield the tokens that a block merges?"""
    axes = token_axes(block)
    values = (*node.all_input_nodes, node)
    return any(any(dimensions_of(labels.dims.get(value), axes)) for value in values)

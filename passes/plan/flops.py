"""FLOPs of a graph, counted by PyTorch's own counter on fake tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from pitome_fx.ops import OPS
from pitome_fx.passes.aten.families import COSTLY, SDPA
from pitome_fx.passes.capture.subclasses import op_of
from pitome_fx.passes.failures import module_path
from pitome_fx.passes.tokens.sizes import Size, hint

Described = tuple[Any, Any]

COUNTED = COSTLY | {op.overload for op in OPS.values() if op.costly}


class FlopCounter:
    """Counts node by node; nodes with equal shapes are counted once.

    Args:
        size_of: what a symbolic size is taken for.
    """

    def __init__(self, size_of: Callable[[Size], int] = hint) -> None:
        self.size_of = size_of
        self._known: dict[Any, int] = {}

    def total(self, graph: GraphModule) -> int:
        """FLOPs of one run of the graph (2 per multiply-add)."""
        return sum(self.of(node) for node in graph.graph.nodes)

    def by_module(self, graph: GraphModule) -> dict[str, int]:
        """The same by the path of the module that computes, '' where that is not known."""
        found: dict[str, int] = {}
        for node in graph.graph.nodes:
            path = module_path(node)
            found[path] = found.get(path, 0) + self.of(node)
        return found

    def of(self, node: Node) -> int:
        """FLOPs of one node."""
        op = op_of(node)
        if op not in COUNTED:
            return 0
        args, kwargs = torch.fx.node.map_arg(
            (node.args, dict(node.kwargs)), lambda n: n.meta["val"]
        )
        return self.call(op, args, kwargs)

    def call(self, op: Any, args: Any, kwargs: Any) -> int:
        """FLOPs of one op on tensors of the given shapes."""
        return self.called(op, self.described(args, kwargs))

    def described(self, args: Any, kwargs: Any) -> Described:
        """Operands by their shapes, which can be counted when their tensors are gone."""
        described: Described = pytree.tree_map(self._described, (args, kwargs))
        return described

    def called(self, op: Any, operands: Described) -> int:
        """FLOPs of one op on operands that are described."""
        key = (op, repr(operands))
        if key not in self._known:
            self._known[key] = self._count(op, *operands)
        return self._known[key]

    def _count(self, op: Any, args: Any, kwargs: Any) -> int:
        if op == SDPA:
            # Kernels for CPU are not in the registry; the formula is the same for all.
            lead = _lead([x.shape[:-2] for x in args[:3]])
            return int(sdpa_flop_count(*(_four_dims(lead, x.shape) for x in args[:3])))
        args, kwargs = pytree.tree_map_only(_Shape, _Shape.tensor, (args, kwargs))
        with FlopCounterMode(display=False) as counter:
            op(*args, **kwargs)
        return int(counter.get_total_flops())

    def _described(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return _Shape(value, self.size_of)
        return self.size_of(value) if isinstance(value, torch.SymInt) else value


def _lead(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What leading dimensions broadcast to; heads that share keys (enable_gqa) outnumber theirs."""
    rank = max(map(len, shapes))
    return tuple(map(max, *((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes)))


def _four_dims(lead: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """(…, N, D), broadcast to ``lead``, as (B, H, N, D), which is what the formula takes."""
    return (math.prod(lead[:-1]), lead[-1] if lead else 1, *shape[-2:])


class _Shape:
    """A tensor's shape and dtype, as a cache key that can be made a meta tensor again.

    All floats count as float32: a FLOP is one in any precision, and ops that autocast casts
    inside (einsum) are recorded with operands of two dtypes, which they refuse without it.
    """

    def __init__(self, x: Tensor, size_of: Callable[[Size], int]) -> None:
        self.shape = tuple(size_of(size) for size in x.shape)
        self.dtype = torch.float32 if x.dtype.is_floating_point else x.dtype

    def __repr__(self) -> str:
        return f"{self.dtype}{self.shape}"

    def tensor(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device="meta")

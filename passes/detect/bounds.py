"""Between which numbers the values of a tensor lie that is made of constants and sizes alone.

A mask such as ``arange(N) >= 0`` cannot be evaluated while N is symbolic, but may be the same for
every N. What is certain of it follows from the lowest and the highest value of each step: those
of ``arange(N)`` are 0 and N − 1. What is True only where N is small is found to be neither True
nor False, for N has no upper bound but the one that the program promises.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.fx.experimental.symbolic_shapes import statically_known_true as surely

from pitome_fx.passes.aten.families import SAME_VALUES, TRIANGLES
from pitome_fx.passes.tokens.rule import moves_elements

Bound = Any
"""An int, a float (±∞ where there is no bound) or a SymInt."""


class Range(NamedTuple):
    """The lowest and the highest value that a tensor may have."""

    low: Bound
    high: Bound


ANY = Range(-math.inf, math.inf)
"""Nothing is known, and values may be NaN. No value of any other range is."""

UNSURE, TRUE, FALSE = Range(0, 1), Range(1, 1), Range(0, 0)

HERE = torch.device("cpu")
"""Where constants are computed, whichever device the program or its user has chosen."""

SIZED = (torch.int64, torch.float64)
"""Dtypes that hold every number made of sizes: narrower ones wrap round, or round up."""

LARGEST = 2**20
"""A size times a larger factor is not followed: it might not fit."""

FILLED_WITH = {
    "zeros": 0,
    "zeros_like": 0,
    "new_zeros": 0,
    "ones": 1,
    "ones_like": 1,
    "new_ones": 1,
}
FILLED_AS_GIVEN = ("full", "full_like", "new_full")
PICKING = (*SAME_VALUES, torch.ops.aten.index.Tensor, torch.ops.aten.tile.default)
"""Ops beside those that move elements whose result holds none but their first operand's."""


@dataclass
class Bounds:
    """Ranges of the values of one graph's nodes.

    Attributes:
        evaluate: the value of a node that depends on constants alone, None for any other.
        written: nodes whose values are changed in place.
    """

    evaluate: Callable[[Node], Tensor | None]
    written: frozenset[Node] = frozenset()
    _ranges: dict[Node, Range] = field(default_factory=dict)

    def only_value(self, node: Node) -> int | float | None:
        """The number that every element is, whatever the sizes; None where that is not certain."""
        return _constant(self.of(node))

    def of(self, node: Node) -> Range:
        """The range of a tensor's values."""
        if node not in self._ranges:
            with disable_proxy_modes_tracing():
                self._ranges[node] = _held(self._derive(node), node.meta["val"].dtype)
        return self._ranges[node]

    def _derive(self, node: Node) -> Range:
        value = self.evaluate(node)
        if value is not None:
            return _of_values(value)
        if node in self.written or not isinstance(node.target, torch._ops.OpOverload):
            return ANY
        name = node.target._schema.name.removeprefix("aten::")
        if name in FILLED_WITH:
            return Range(FILLED_WITH[name], FILLED_WITH[name])
        if name in FILLED_AS_GIVEN:
            return self._operand(_arguments(node)["fill_value"])
        if name == "arange":
            return _arange(**_arguments(node))
        if node.target in TRIANGLES:
            keeps = _triangle(name, node.meta["val"].shape[-2:], _arguments(node)["diagonal"])
            return _where(keeps, self._operand(node.args[0]), FALSE)
        if moves_elements(node.target) or node.target in PICKING:
            return self._operand(node.args[0])
        if name in RULES and not node.kwargs and not _mixes_bits(name, node):
            return RULES[name](*map(self._operand, node.args))
        return ANY

    def _operand(self, x: Any) -> Range:
        known = x.meta.get("val") if isinstance(x, Node) else x
        if isinstance(known, Tensor):
            return self.of(x)
        return Range(known, known) if isinstance(known, int | float | torch.SymInt) else ANY


def _arguments(node: Node) -> dict[str, Any]:
    """Arguments by name, defaults included; sizes for the nodes that yield them."""
    schema: Any = node.target._schema  # type: ignore[union-attr]
    found = {argument.name: argument.default_value for argument in schema.arguments}
    found |= dict(zip(found, node.args, strict=False)) | dict(node.kwargs)
    return {name: x.meta["val"] if isinstance(x, Node) else x for name, x in found.items()}


def _mixes_bits(name: str, node: Node) -> bool:
    """Is it a bitwise op on integers?"""
    return (name.startswith(("bitwise_", "__"))) and node.meta["val"].dtype != torch.bool


def _constant(x: Range) -> int | float | None:
    """The one number of a range, None if there may be more."""
    numbers = all(isinstance(end, int | float) and math.isfinite(end) for end in x)
    return x.low if numbers and x.low == x.high else None


def _is_any(x: Range) -> bool:
    return all(isinstance(end, float) and math.isinf(end) for end in x) and x.low != x.high


def _of_values(value: Tensor) -> Range:
    if not value.numel() or value.is_complex() or bool(value.isnan().any()):
        return ANY
    return Range(value.min().item(), value.max().item())


def _held(x: Range, dtype: torch.dtype) -> Range:
    """What is left of a range when its values are converted to a dtype."""
    if dtype == torch.bool:
        return _truth(x)
    sizes = any(isinstance(end, torch.SymInt) for end in x)
    if dtype.is_complex or (sizes and dtype not in SIZED):
        return ANY
    if dtype.is_floating_point:
        if sizes:
            return x
        return Range(*torch.tensor(x, dtype=torch.float64, device=HERE).to(dtype).tolist())
    limits = torch.iinfo(dtype)
    ends = [
        end if isinstance(end, torch.SymInt) or not math.isfinite(end) else int(end) for end in x
    ]
    fit = all(isinstance(end, torch.SymInt) or limits.min <= end <= limits.max for end in ends)
    return Range(*ends) if fit else ANY


def _arange(end: Bound, start: Bound = 0, step: Bound = 1, **_: Any) -> Range:
    if not surely(step > 0) or any(isinstance(x, torch.SymFloat) for x in (start, end)):
        return ANY
    whole = not any(isinstance(x, float) for x in (start, end, step))
    return Range(start, end - 1 if whole else end)


def _summed(a: Bound, b: Bound) -> Bound:
    """a + b, NaN where that is not known."""
    kinds = {type(a), type(b)}
    return math.nan if kinds == {torch.SymInt, float} else a + b


def _scaled(a: Bound, factor: float) -> Bound:
    if not isinstance(a, torch.SymInt):
        return a * factor
    return a * factor if isinstance(factor, int) and abs(factor) <= LARGEST else math.nan


def _range(low: Bound, high: Bound) -> Range:
    """A range, of which nothing is known where an end is not."""
    return (
        ANY
        if any(isinstance(x, float) and math.isnan(x) for x in (low, high))
        else Range(low, high)
    )


def _add(a: Range, b: Range) -> Range:
    return _range(_summed(a.low, b.low), _summed(a.high, b.high))


def _neg(a: Range) -> Range:
    return Range(-a.high, -a.low)


def _mul(a: Range, b: Range) -> Range:
    """By a constant."""
    for x, factor in ((a, _constant(b)), (b, _constant(a))):
        if factor is not None:
            ends = [_scaled(end, factor) for end in x]
            return _range(*(ends if factor >= 0 else ends[::-1]))
    return ANY


def _abs(a: Range) -> Range:
    if _is_any(a) or surely(a.low >= 0):
        return a
    if surely(-a.low <= a.high):
        return Range(0, a.high)
    return Range(0, -a.low) if surely(-a.low >= a.high) else ANY


def _lt(a: Range, b: Range) -> Range:
    if _is_any(a) or _is_any(b):
        return UNSURE
    if surely(a.high < b.low):
        return TRUE
    return FALSE if surely(a.low >= b.high) else UNSURE


def _eq(a: Range, b: Range) -> Range:
    if _constant(a) is not None and _constant(a) == _constant(b):
        return TRUE
    return FALSE if TRUE in (_lt(a, b), _lt(b, a)) else UNSURE


def _truth(a: Range) -> Range:
    """Is it anything but 0?"""
    if surely(a.low > 0) or surely(a.high < 0):
        return TRUE
    return FALSE if _constant(a) == 0 else UNSURE


def _not(a: Range) -> Range:
    return {TRUE: FALSE, FALSE: TRUE}.get(_truth(a), UNSURE)


def _and(a: Range, b: Range) -> Range:
    both = [_truth(a), _truth(b)]
    if FALSE in both:
        return FALSE
    return UNSURE if UNSURE in both else TRUE


def _or(a: Range, b: Range) -> Range:
    return _not(_and(_not(a), _not(b)))


def _where(condition: Range, a: Range, b: Range) -> Range:
    condition = _truth(condition)
    if condition == UNSURE:
        return Range(_least(a.low, b.low), -_least(-a.high, -b.high))
    return a if condition == TRUE else b


def _least(a: Bound, b: Bound) -> Bound:
    """The lower of two bounds, −∞ where the sizes decide."""
    if surely(a <= b):
        return a
    return b if surely(b <= a) else -math.inf


def _triangle(name: str, shape: Any, diagonal: Bound) -> Range:
    """Does tril or triu keep an element?"""
    behind = Range(1 - shape[0], shape[1] - 1)
    cut = Range(diagonal, diagonal)
    return _not(_lt(cut, behind)) if name == "tril" else _not(_lt(behind, cut))


RULES: dict[str, Callable[..., Range]] = {
    "add": _add,
    "sub": lambda a, b: _add(a, _neg(b)),
    "rsub": lambda a, b, alpha=TRUE: _add(b, _neg(_mul(a, alpha))),
    "neg": _neg,
    "mul": _mul,
    "abs": _abs,
    "lt": _lt,
    "gt": lambda a, b: _lt(b, a),
    "le": lambda a, b: _not(_lt(b, a)),
    "ge": lambda a, b: _not(_lt(a, b)),
    "eq": _eq,
    "ne": lambda a, b: _not(_eq(a, b)),
    "logical_not": _not,
    "bitwise_not": _not,
    "logical_and": _and,
    "bitwise_and": _and,
    "__and__": _and,
    "logical_or": _or,
    "bitwise_or": _or,
    "__or__": _or,
    "where": _where,
    "masked_fill": lambda a, condition, value: _where(condition, value, a),
}

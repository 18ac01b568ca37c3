"""Sizes that went through floats, without them.

``arange(0.5, n)`` has ⌈float(n) − 0.5⌉ elements and ``int(h / 8)`` is ⌊h / 8⌋, but neither is seen
to be n or h // 8 as long as the floats stand. Sizes are small: doubles hold them exactly.
"""

from __future__ import annotations

import math
from typing import Any

import sympy
import torch
from torch.utils._sympy.functions import (
    CeilToInt,
    FloatTrueDiv,
    FloorDiv,
    FloorToInt,
    IntTrueDiv,
    RoundToInt,
    ToFloat,
    TruncToInt,
)

ROUNDINGS = (CeilToInt, FloorToInt, TruncToInt, RoundToInt)
Size = int | torch.SymInt


def without_floats(size: Size) -> Size:
    """The same size in integers as far as possible; an int where it is one number."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    if not expression.has(*ROUNDINGS):
        return size
    plain = expression.replace(lambda e: isinstance(e, ROUNDINGS), _in_integers)
    if plain.is_Integer:
        return int(plain)
    if plain == expression:
        return size
    found: Size = size.node.shape_env.create_symintnode(plain, hint=size.node.hint)
    return found


def _in_integers(rounded: Any) -> Any:
    """⌈x⌉, ⌊x⌋ and their like without floats; the same where that is not certain."""
    x = rounded.args[0]
    if isinstance(x, FloatTrueDiv) and x.args[1].is_number and float(x.args[1]) == 1:
        x = x.args[0]
    if isinstance(x, IntTrueDiv):
        return _divided(rounded, *x.args)
    whole: list[Any] = []
    rest = 0.0
    for term in sympy.Add.make_args(x):
        if isinstance(term, ToFloat):
            whole.append(term.args[0])
        elif term.is_number:
            rest += float(term)
        else:
            return rounded
    if rest != 0 and (
        rest * 1024 != int(rest * 1024) or not isinstance(rounded, CeilToInt | FloorToInt)
    ):
        return rounded
    return sympy.Add(
        *whole, math.ceil(rest) if isinstance(rounded, CeilToInt) else math.floor(rest)
    )


def _divided(rounded: Any, numerator: Any, divisor: Any) -> Any:
    """The quotient of two sizes: it is rounded to a whole number only if it is one."""
    if isinstance(rounded, FloorToInt) or (
        isinstance(rounded, TruncToInt) and numerator.is_nonnegative and divisor.is_positive
    ):
        return FloorDiv(numerator, divisor)
    if isinstance(rounded, CeilToInt) and divisor.is_positive:
        # Without a negative operand: engines divide integers towards zero.
        return FloorDiv(numerator + divisor - 1, divisor)
    return rounded

"""Symbolic sizes as nodes of the trace that is being made.

A size belongs to the trace that made it: its tracer knows which node yields it. A size of another
trace, such as that of a labelled dimension, has to be said anew in sizes that this one knows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot, set_proxy_slot
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from pitome_fx.passes.tokens.whole import Size, without_floats

SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


def equate(recorded: Any, size: Any) -> None:
    """In the trace that is being made, a recorded size is yielded by what yields ``size``."""
    mode = get_proxy_mode()
    if mode is None or recorded is size:
        return
    if isinstance(recorded, SYMBOLIC) and isinstance(size, SYMBOLIC):
        slot: Any = get_proxy_slot(size, mode.tracer, None)
        if slot is not None:
            set_proxy_slot(recorded, mode.tracer, slot)


def tracked(size: Size) -> Size:
    """The size; where the trace does not know it, computed from the symbols that it does know.

    PyTorch does so too, but for quotients and for products of three (``get_proxy_slot``).
    """
    mode: Any = get_proxy_mode()
    if mode is None or isinstance(size, int):
        return size
    known = mode.tracer.sympy_expr_tracker
    if size in mode.tracer.symnode_tracker or size.node.expr in known:
        return size
    whole: Any = without_floats(size)
    expression = whole.node.expr
    if not known.keys() >= expression.free_symbols:
        return size
    symbols = {symbol: known[symbol].value for symbol in expression.free_symbols}
    found: Size = sympy_interp(PythonReferenceAnalysis, symbols, expression)
    return found

"""Sizes of the dense program inside the trace of another one.

A symbolic size belongs to the trace that made it: a tracer knows which node yields it. The token
rules speak of dimensions by the axes of the dense program, whose sizes are another trace's. So
wherever a value of the dense program is computed again, its sizes are told to be the new ones.
"""

from __future__ import annotations

from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pitome_fx.passes.tokens.dims import TokenTensor, is_merged
from pitome_fx.passes.tokens.tracked import equate


def follow(recorded: Any, value: Any) -> None:
    """Where a trace is being made, the sizes of a recorded value are those of its new value.

    Args:
        recorded: what a node of the dense graph yields, as recorded in its metadata.
        value: what it yields now, with its dimensions; merged ones have other sizes.
    """
    if get_proxy_mode() is None:
        return
    leaves = pytree.tree_leaves(recorded), pytree.tree_leaves(value)
    for old, new in zip(*leaves, strict=True):
        if isinstance(new, TokenTensor) and isinstance(old, Tensor):
            for size, dim, now in zip(old.shape, new.dims, new.data.shape, strict=True):
                if not is_merged(dim):
                    equate(size, now)
                    if len(dim) == 1:
                        equate(dim[0].axis.size, now)
        else:
            equate(old, new)

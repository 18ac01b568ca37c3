"""Lookups by index."""

from __future__ import annotations

from typing import Any

import torch

from pitome_fx.passes.axes import TokenTensor, is_merged
from pitome_fx.passes.replay import Step
from pitome_fx.passes.rule import Lift, rule

aten = torch.ops.aten


@rule(aten.embedding.default)
def embedding(
    step: Step, weight: TokenTensor, indices: TokenTensor, *args: Any, **kwargs: Any
) -> TokenTensor:
    """One row per index: the dimensions of the indices, and the features."""
    last = len(indices.dims)
    dims = (*indices.dims, step.fresh(last, step.value.shape[last]))
    return TokenTensor(step(weight, indices, *args, **kwargs), dims)


@rule(aten.index_select.default)
def index_select(step: Step, x: TokenTensor, dim: int, index: TokenTensor) -> TokenTensor:
    """Selecting along another dimension leaves the tokens alone."""
    dim %= len(x.dims)
    if is_merged(x.dims[dim]):
        raise Lift("tokens are picked by index")
    new = step.fresh(dim, step.value.shape[dim])
    return TokenTensor(step(x, dim, index), (*x.dims[:dim], new, *x.dims[dim + 1 :]))

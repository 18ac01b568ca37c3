"""Lookups by index."""

from __future__ import annotations

from typing import Any

import torch

from pitome_fx.passes.replay.align import meet
from pitome_fx.passes.replay.apart import keep_dense
from pitome_fx.passes.replay.step import Step
from pitome_fx.passes.rules.reduce import bind
from pitome_fx.passes.tokens.dims import TokenTensor, is_merged
from pitome_fx.passes.tokens.rule import Lift, rule
from pitome_fx.passes.tokens.sizes import same_size

aten = torch.ops.aten


@rule(aten.embedding.default)
def embedding(
    step: Step, weight: TokenTensor, indices: TokenTensor, *args: Any, **kwargs: Any
) -> TokenTensor:
    """One row per index: the dimensions of the indices, and the features."""
    keep_dense(weight)
    last = len(indices.dims)
    dims = (*indices.dims, step.fresh(last, step.value.shape[last]))
    return TokenTensor(step(weight, indices, *args, **kwargs), dims)


@rule(aten.index_select.default)
def index_select(step: Step, x: TokenTensor, dim: int, index: TokenTensor) -> TokenTensor:
    """Selecting along another dimension leaves the tokens alone."""
    dim %= len(x.dims)
    if is_merged(x.dims[dim]) or index.merged:
        raise Lift("tokens are picked by index")
    new = step.fresh(dim, step.value.shape[dim])
    return TokenTensor(step(x, dim, index), (*x.dims[:dim], new, *x.dims[dim + 1 :]))


@rule(aten.gather.default, aten.take_along_dim.default)
def gather(step: Step, x: TokenTensor, *args: Any, **kwargs: Any) -> TokenTensor:
    """Picks elements along one dimension, which then is the index's; the others stay."""
    bound = bind(step, (x, *args), kwargs)
    index: TokenTensor = bound["index"] if "index" in bound else bound["indices"]
    dim = bound.get("dim")
    if x.merged or index.merged or dim is None:
        raise Lift("tokens are picked by value")
    dim %= len(index.dims)
    dims = list(index.dims)
    broadcasts = step.node.target is aten.take_along_dim.default
    for d, size in enumerate(x.data.shape):
        if d != dim and (broadcasts or same_size(size, index.data.shape[d])):
            dims[d] = meet([x.dims[d], index.dims[d]])
    return TokenTensor(step(x, *args, **kwargs), tuple(dims))

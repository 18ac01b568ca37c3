"""Softmax and the normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pitome_fx.passes.replay.apart import keep_dense, keep_items_apart
from pitome_fx.passes.replay.step import Step
from pitome_fx.passes.rules.reduce import bind, over_tokens, weighted
from pitome_fx.passes.tokens.dims import TokenTensor, is_merged
from pitome_fx.passes.tokens.rule import Lift, rule

aten = torch.ops.aten

ABSORBED = 64
"""A score is lost beside a mask whose unit in the last place is larger than this."""


def is_blank(highest: Tensor) -> Tensor:
    """Is the highest score of a row so low that nothing is left of it, as under a full mask?

    Such a row sees all tokens alike; what is added to it, log(size) among it, is lost as well.
    """
    return highest.abs() * torch.finfo(highest.dtype).eps > ABSORBED


@rule(aten.softmax.int, aten._softmax.default)
def softmax(step: Step, x: TokenTensor, dim: int, *args: Any, **kwargs: Any) -> TokenTensor:
    """Each member's share: softmax over the groups, divided so that the tokens sum to 1.

    That is softmax(score + log size) / size, but log(size) is not lost beside the lowest float
    where a whole row is masked.
    """
    over = [dim % len(x.dims)]
    keep_items_apart(x, over)
    value = TokenTensor(step(x, dim, *args, **kwargs), x.dims)
    if not over_tokens(x, over):
        return value
    total = weighted(value, over, aten.mul.Tensor).data.sum(dim, keepdim=True)
    shares = value.data / total
    if not step.is_proportional:
        step.note_unweighted(x.dims[dim])
        each = weighted(value, over, aten.div.Tensor).data
        shares = torch.where(is_blank(x.data.amax(dim, keepdim=True)), shares, each)
    return TokenTensor(shares, x.dims)


@rule(aten.log_softmax.int, aten._log_softmax.default)
def log_softmax(step: Step, x: TokenTensor, dim: int, *args: Any, **kwargs: Any) -> TokenTensor:
    """The logarithm of the above."""
    over = [dim % len(x.dims)]
    keep_items_apart(x, over)
    value = TokenTensor(step(x, dim, *args, **kwargs), x.dims)
    if not over_tokens(x, over):
        return value
    counted = weighted(value, over, lambda data, size: data + size.log())
    return TokenTensor(value.data - counted.data.logsumexp(dim, keepdim=True), x.dims)


@rule(aten.layer_norm, aten.rms_norm)
def layer_norm(
    step: Step, x: TokenTensor, normalized_shape: Sequence[int], *args: Any, **kwargs: Any
) -> TokenTensor:
    """Per token, if its statistics are over channels only."""
    keep_dense(args, kwargs)
    keep_items_apart(x, range(len(x.dims) - len(normalized_shape), len(x.dims)))
    if any(is_merged(dim) for dim in x.dims[len(x.dims) - len(normalized_shape) :]):
        raise Lift("a normalisation whose statistics include the token axis")
    return TokenTensor(step(x, normalized_shape, *args, **kwargs), x.dims)


@rule(aten.native_layer_norm.default)
def native_layer_norm(
    step: Step, x: TokenTensor, normalized_shape: Sequence[int], *args: Any
) -> list[TokenTensor]:
    """The same, with its statistics beside it."""
    keep_dense(args)
    inner = len(x.dims) - len(normalized_shape)
    keep_items_apart(x, range(inner, len(x.dims)))
    if any(is_merged(dim) for dim in x.dims[inner:]):
        raise Lift("a normalisation whose statistics include the token axis")
    kept = (*x.dims[:inner], *[()] * len(normalized_shape))
    out, mean, rstd = step(x, normalized_shape, *args)
    return [TokenTensor(out, x.dims), TokenTensor(mean, kept), TokenTensor(rstd, kept)]


@rule(aten.batch_norm.default)
def batch_norm(step: Step, x: TokenTensor, *args: Any, **kwargs: Any) -> TokenTensor:
    """Per token with running statistics; in training its statistics are over the tokens."""
    keep_dense(args, kwargs)
    training = bind(step, (x, *args), kwargs)["training"]
    if x.merged and (training or is_merged(x.dims[1])):
        raise Lift("a normalisation whose statistics include the token axis")
    return TokenTensor(step(x, *args, **kwargs), x.dims)


@rule(aten.group_norm.default, aten.instance_norm.default)
def group_norm(step: Step, x: TokenTensor, *args: Any, **kwargs: Any) -> TokenTensor:
    """Per token only where the tokens are the batch: statistics run over all other dimensions."""
    keep_dense(args, kwargs)
    keep_items_apart(x, range(1, len(x.dims)))
    if any(is_merged(dim) for dim in x.dims[1:]):
        raise Lift("a normalisation whose statistics include the token axis")
    return TokenTensor(step(x, *args, **kwargs), x.dims)

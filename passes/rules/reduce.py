"""Reductions: each group counts as often as it has members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pitome_fx.passes.replay.align import has_mean
from pitome_fx.passes.replay.apart import keep_items_apart
from pitome_fx.passes.replay.step import Step
from pitome_fx.passes.tokens.dims import Dim, TokenTensor, is_merged
from pitome_fx.passes.tokens.moves import places, spread
from pitome_fx.passes.tokens.rule import Lift, rule
from pitome_fx.passes.tokens.sizes import Size, product

aten = torch.ops.aten


def weighted(x: TokenTensor, dims: Sequence[int], combine: Callable[..., Any]) -> TokenTensor:
    """x combined with the group sizes of every merged axis in ``dims`` (``mul``: x · size)."""
    data = x.data
    for d, a in places(x):
        space = x.dims[d][a].space
        if d in dims and space is not None:
            if not has_mean(data):
                # Counts of members do not fit the narrow types, least of all bool.
                data = data.to(torch.int64)
            size = spread(space.size, space, x.dims, (d, a)).type_as(data)
            data = combine(data, size)
    return x.holding(data)


def reduced(
    x: TokenTensor, dim: Sequence[int] | int | None, keepdim: bool
) -> tuple[list[int], tuple[Dim, ...]]:
    """The dimensions reduced over, and those of the result."""
    rank = len(x.dims)
    given = [dim] if isinstance(dim, int) else list(dim or range(rank))
    over = sorted({d % rank for d in given}) if rank else []
    if keepdim:
        return over, tuple(() if d in over else own for d, own in enumerate(x.dims))
    return over, tuple(own for d, own in enumerate(x.dims) if d not in over)


def over_tokens(x: TokenTensor, over: Sequence[int]) -> bool:
    """Is one of these dimensions merged?"""
    return any(is_merged(x.dims[d]) for d in over)


@rule(aten.sum.dim_IntList, aten.sum.default)
def sum_(step: Step, x: TokenTensor, *args: Any, **kwargs: Any) -> TokenTensor:
    """Σ over tokens = Σ over groups of size · value."""
    return _total(step, x, args, kwargs, lambda total, count: total)


@rule(aten.mean.dim, aten.mean.default)
def mean(step: Step, x: TokenTensor, *args: Any, **kwargs: Any) -> TokenTensor:
    """The size-weighted sum over the number of original tokens."""
    return _total(step, x, args, kwargs, _divided)


def _divided(total: Any, count: Size) -> Any:
    """``total / count``; by a number, as a product.

    OpenVINO 2026.4 computes the sum of a slice wrongly where it is divided by a constant.
    """
    return total * (1 / count) if isinstance(count, int) and count else total / count


def _is_real(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _total(
    step: Step, x: TokenTensor, args: Any, kwargs: Any, finish: Callable[[Any, Size], Any]
) -> TokenTensor:
    """The sum over dimensions, every group counted by its size; ``finish(sum, dense count)``.

    Half types are summed in float32, as torch does within a mean: size · value may overflow them.
    """
    bound = bind(step, (x, *args), kwargs)
    keepdim = bool(bound.get("keepdim", False))
    over, dims = reduced(x, bound.get("dim"), keepdim)
    if not over_tokens(x, over):
        return TokenTensor(step(x, *args, **kwargs), dims)
    dtype: torch.dtype = step.value.dtype
    wide = torch.promote_types(dtype, torch.float32) if _is_real(dtype) else dtype
    if has_mean(x.data):
        x = x.holding(x.data.to(torch.promote_types(x.data.dtype, wide)))
    members = weighted(x, over, aten.mul.Tensor)
    total = step.run(aten.sum.dim_IntList, members, over, keepdim)
    total = total.to(torch.promote_types(total.dtype, wide))
    total = finish(total, product(x.dense_shape[d] for d in over))
    return TokenTensor(total.to(dtype), dims)


@rule(aten.logsumexp.default)
def logsumexp(step: Step, x: TokenTensor, dim: Sequence[int], keepdim: bool = False) -> TokenTensor:
    """log Σ exp over tokens = log Σ exp over groups of value + log size."""
    over, dims = reduced(x, dim, keepdim)
    shifted = weighted(x, over, lambda data, size: data + size.log())
    return TokenTensor(step(shifted, dim, keepdim), dims)


@rule(aten.amax.default, aten.amin.default)
def extremum(
    step: Step, x: TokenTensor, dim: Sequence[int] | int = (), keepdim: bool = False
) -> TokenTensor:
    """The extremum over groups is that over their members."""
    return TokenTensor(step(x, dim, keepdim), reduced(x, dim, keepdim)[1])


@rule(aten.any.dim, aten.all.dim)
def quantifier(step: Step, x: TokenTensor, dim: int, keepdim: bool = False) -> TokenTensor:
    """What holds for some (all) groups holds for some (all) of their members."""
    return TokenTensor(step(x, dim, keepdim), reduced(x, dim, keepdim)[1])


@rule(aten.max.default, aten.min.default, aten.any.default, aten.all.default)
def over_everything(step: Step, x: TokenTensor) -> TokenTensor:
    """The same of all groups as of all tokens."""
    return TokenTensor(step(x), ())


@rule(
    aten.var.correction,
    aten.var.dim,
    aten.std.correction,
    aten.std.dim,
    aten.linalg_vector_norm.default,
    aten.norm.ScalarOpt_dim,
    aten.prod.dim_int,
    aten.argmax.default,
    aten.argmin.default,
)
def within_tokens(step: Step, x: TokenTensor, *args: Any, **kwargs: Any) -> TokenTensor:
    """Statistics within each token, e.g. over its channels; never over the tokens."""
    bound = bind(step, (x, *args), kwargs)
    over, dims = reduced(x, bound.get("dim"), bool(bound.get("keepdim", False)))
    if over_tokens(x, over):
        raise Lift("a statistic over tokens that groups do not determine")
    return TokenTensor(step(x, *args, **kwargs), dims)


@rule(aten.max.dim, aten.min.dim, aten.median.dim, aten.mode.default)
def extremum_with_index(
    step: Step, x: TokenTensor, dim: int = -1, keepdim: bool = False
) -> list[TokenTensor | None]:
    """Values and indices over another dimension; indices of groups would mean nothing.

    Where nobody reads the indices there are none (None), and values are had of merged tokens too.
    """
    over, dims = reduced(x, dim, keepdim)
    if over_tokens(x, over):
        values_alone = all(user.args[1:] == (0,) for user in step.node.users)
        if not values_alone or step.node.target not in (aten.max.dim, aten.min.dim):
            raise Lift("indices of tokens are asked for")
        op = aten.amax.default if step.node.target == aten.max.dim else aten.amin.default
        return [TokenTensor(step.run(op, x, over, keepdim), dims), None]
    return [TokenTensor(value, dims) for value in step(x, dim, keepdim)]


@rule(aten.topk.default, aten.sort.default, aten.sort.stable)
def ordered(step: Step, x: TokenTensor, *args: Any, **kwargs: Any) -> list[TokenTensor]:
    """Order within each token, e.g. of its channels."""
    bound = bind(step, (x, *args), kwargs)
    dim = bound.get("dim", -1) % len(x.dims)
    keep_items_apart(x, [dim])
    if is_merged(x.dims[dim]):
        raise Lift("tokens are ordered or selected by value")
    new = step.fresh(dim, step.value[0].shape[dim])
    dims = (*x.dims[:dim], new, *x.dims[dim + 1 :])
    return [TokenTensor(value, dims) for value in step(x, *args, **kwargs)]


@rule(aten.cumsum.default, aten.cumprod.default, aten.flip.default, aten.roll.default)
def along_other_dims(step: Step, x: TokenTensor, *args: Any, **kwargs: Any) -> TokenTensor:
    """Scans and shifts along another dimension leave the tokens alone."""
    bound = bind(step, (x, *args), kwargs)
    given = bound.get("dim", bound.get("dims"))
    over = [given] if isinstance(given, int) else list(given or range(len(x.dims)))
    over = [d % len(x.dims) for d in over]
    keep_items_apart(x, over)
    if over_tokens(x, over):
        raise Lift("the order of tokens matters")
    dims = tuple(
        step.fresh(d, size) if d in over else x.dims[d] for d, size in enumerate(step.value.shape)
    )
    return TokenTensor(step(x, *args, **kwargs), dims)


def bind(step: Step, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the op's schema."""
    target: Any = step.node.target
    names = [argument.name for argument in target._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}

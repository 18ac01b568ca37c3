"""Ops that act on each element alone: the same op, on fewer rows."""

from typing import Any

import torch
import torch.utils._pytree as pytree

from pitome_fx.passes.aten.families import LENT, SAME_VALUES
from pitome_fx.passes.replay.align import align
from pitome_fx.passes.replay.apart import keep_dense
from pitome_fx.passes.replay.step import Step
from pitome_fx.passes.tokens.dims import TokenTensor, is_merged, is_single
from pitome_fx.passes.tokens.rule import Lift, pointwise_rule, rule

aten = torch.ops.aten


@pointwise_rule
@rule(
    aten.dropout,
    aten.alpha_dropout,
    *(op for op in SAME_VALUES if op not in LENT),
    aten.masked_fill,
    aten.where.self,
    aten.where.ScalarSelf,
    aten.where.ScalarOther,
    aten.where.Scalar,
    aten.__and__.Tensor,
    aten.__and__.Scalar,
    aten.__or__.Tensor,
    aten.__or__.Scalar,
    aten.__xor__.Tensor,
    aten.__xor__.Scalar,
    aten._cast_Float,
    # Per element too, though PyTorch does not tag them so.
    aten.hardswish,
    aten.log_sigmoid,
    aten.special_erf,
    aten.special_expit,
    aten.arctan2,
    aten.true_divide,
    aten.floor_divide,
    aten.multiply,
    aten.subtract,
    aten.divide,
    aten.negative,
    aten.absolute,
    aten.isreal,
    aten.polar.default,
    aten.complex.default,
    aten.real,
    aten.imag,
    aten.conj,
    aten.rsub,
    aten.not_equal,
    aten.greater,
    aten.greater_equal,
    aten.less,
    aten.less_equal,
)
def pointwise(step: Step, *args: Any, **kwargs: Any) -> TokenTensor:
    """Broadcast the operands in common token spaces and run the op on them."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, TokenTensor)]
    operands, dims = align(step, [leaves[i] for i in at])
    for i, operand in zip(at, operands, strict=True):
        leaves[i] = operand
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return TokenTensor(step(*args, **kwargs), dims)


@rule(aten.prelu.default)
def prelu(step: Step, x: TokenTensor, weight: TokenTensor) -> TokenTensor:
    """One slope for all, or one for each channel (dimension 1)."""
    keep_dense(weight)
    if any(map(is_merged, x.dims[1:2])) and not is_single(weight.dims[0] if weight.dims else ()):
        raise Lift("a slope of its own for each token")
    return TokenTensor(step(x, weight), x.dims)


@rule(aten.frexp.Tensor)
def frexp(step: Step, x: TokenTensor) -> list[TokenTensor]:
    """Mantissa and exponent of each element."""
    return [TokenTensor(value, x.dims) for value in step(x)]


@rule(aten.sym_size.int)
def sym_size(step: Step, x: TokenTensor, dim: int) -> Any:
    """Sizes are those of the dense program: shape arithmetic in the graph stays what it was."""
    return x.dense_shape[dim]


@rule(aten._assert_tensor_metadata.default)
def assert_metadata(
    step: Step, x: TokenTensor, size: Any = None, stride: Any = None, *args: Any, **kwargs: Any
) -> None:
    """Dtype and device hold as before; size and stride were those of the dense tensor."""
    step(x, size if not x.merged else None, stride if not x.merged else None, *args, **kwargs)

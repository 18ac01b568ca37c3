"""Cases of the ops that share a rule with others: each is called by its own name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.properties.rule_cases import Case, lifted, reduces

aten = torch.ops.aten


def each(
    ops: Iterable[Any], f: Callable[[Any, Tensor], Any], made: Callable[..., Case] = Case
) -> dict[str, Case]:
    """One case per op: ``f(op, x)``."""
    return {op.name(): made(partial(f, op)) for op in ops}


UNARY = [
    aten._cast_Float.default,
    aten._to_copy.default,
    aten.absolute.default,
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.log_sigmoid.default,
    aten.negative.default,
    aten.ones_like.default,
    aten.special_erf.default,
    aten.special_expit.default,
]
OF_COMPLEX = [aten.real.default, aten.imag.default, aten.conj.default]
BINARY = [
    aten.arctan2.default,
    aten.divide.Tensor,
    aten.floor_divide.default,
    aten.greater.Tensor,
    aten.greater_equal.Tensor,
    aten.less.Tensor,
    aten.less_equal.Tensor,
    aten.multiply.Tensor,
    aten.not_equal.Tensor,
    aten.rsub.Tensor,
    aten.subtract.Tensor,
    aten.to.other,
    aten.true_divide.Tensor,
    aten.type_as.default,
]
GROWING = [aten.copy.default, aten.expand_as.default]
WITH_NUMBER = [
    aten.divide.Scalar,
    aten.floor_divide.Scalar,
    aten.full_like.default,
    aten.greater.Scalar,
    aten.greater_equal.Scalar,
    aten.less.Scalar,
    aten.less_equal.Scalar,
    aten.multiply.Scalar,
    aten.not_equal.Scalar,
    aten.rsub.Scalar,
    aten.subtract.Scalar,
    aten.true_divide.Scalar,
]
LOGICAL = [aten.__and__, aten.__or__, aten.__xor__]
DRAWN = [
    aten.rand_like.default,
    aten.randn_like.default,
    aten.random.default,
    aten.uniform.default,
    aten.normal_functional.default,
    aten.exponential.default,
    aten.cauchy.default,
    aten.log_normal.default,
]
DRAWN_BY = [aten.rand_like.generator, aten.randn_like.generator]
BELOW = [aten.randint_like.default, aten.random.to]
BETWEEN = [aten.randint_like.low_dtype]

POINTWISE = {
    **each(UNARY, lambda op, x: op(x)),
    **each(OF_COMPLEX, lambda op, x: op(torch.complex(x, x + 1)).abs()),
    **each([aten.isreal.default], lambda op, x: op(torch.complex(x, x.relu()))),
    **each(BINARY, lambda op, x: op(x, x[:, :, :1] + 1)),
    **each(WITH_NUMBER, lambda op, x: op(x, 0.5)),
    **each([op.Tensor for op in LOGICAL], lambda op, x: op(x > 0, x > 0.5)),
    **each([op.Scalar for op in LOGICAL], lambda op, x: op(x > 0, op is not aten.__or__.Scalar)),
    # The law is about values: what is drawn must not count, or have one outcome only.
    **each([aten.empty_like.default], lambda op, x: torch.where(x.isnan(), op(x), x)),
    **each(DRAWN, lambda op, x: 0 * op(x), reduces),
    **each(DRAWN_BY, lambda op, x: 0 * op(x, generator=None), reduces),
    **each(BELOW, lambda op, x: 0 * op(x, 5), reduces),
    **each(BETWEEN, lambda op, x: 0 * op(x, 2, 5), reduces),
    **each([aten.randint_like.generator], lambda op, x: 0 * op(x, 5, generator=None), reduces),
    **each(
        [aten.randint_like.low_generator_dtype],
        lambda op, x: 0 * op(x, 2, 5, generator=None),
        reduces,
    ),
    **each([aten.geometric.default], lambda op, x: 0 * op(x, 0.5), reduces),
    **each([aten.rrelu.default], lambda op, x: op(x)),
    "rrelu in training": lifted(lambda x: F.rrelu(x.abs(), training=True)),
    **each([aten.dropout.default, aten.alpha_dropout.default], lambda op, x: op(x, 0.5, False)),
    **each([aten.bernoulli.default], lambda op, x: op((x > 0).double()), lifted),
    **each([aten.bernoulli.p], lambda op, x: op(x, 1.0), reduces),
    **each([aten.bernoulli.Tensor], lambda op, x: op(x, (x > 0).double()), lifted),
    **each(GROWING, lambda op, x: op(x[:, :, :1], x) if op is GROWING[1] else op(x, x[:, :, :1])),
    **each([aten.fill.Scalar], lambda op, x: op(x, 2) + x),
    **each([aten.fill.Tensor], lambda op, x: op(x, torch.tensor(2)) + x),
    **each([aten.zero.default], lambda op, x: op(x) + x),
    **each([aten.frexp.Tensor], lambda op, x: op(x)[0] * op(x)[1]),
    **each([aten.polar.default], lambda op, x: torch.view_as_real(op(x, x + 1))),
    **each([aten.divide.Tensor_mode], lambda op, x: op(x, x + 1, rounding_mode="floor")),
    **each([aten.divide.Scalar_mode], lambda op, x: op(x, 0.3, rounding_mode="trunc")),
    **each([aten.masked_fill.Tensor], lambda op, x: op(x, x > 0, x.new_ones(()))),
    **each([aten.where.ScalarOther], lambda op, x: op(x > 0, x, 0.5)),
    **each([aten.where.ScalarSelf], lambda op, x: op(x > 0, 0.5, x)),
    **each([aten.where.Scalar], lambda op, x: op(x > 0, 0.5, -2.0) * x),
    **each([aten.to.device], lambda op, x: op(x, x.device, torch.float32)),
    **each([aten.to.dtype_layout], lambda op, x: op(x, dtype=torch.float32)),
    **each([aten.new_zeros.default, aten.new_empty.default], lambda op, x: x + 0 * _new(op, x)),
    **each(
        [aten.new_empty_strided.default],
        lambda op, x: x + 0 * _new(op, x, (x.shape[2], x.shape[2], 1)),
    ),
    **each([aten.new_full.default], lambda op, x: x + _new(op, x, 3)),
}


def _new(op: Any, x: Tensor, *args: Any) -> Tensor:
    new: Tensor = op(x, (x.shape[0], 1, x.shape[2]), *args)
    return new.nan_to_num(0, 0, 0)


def rows(x: Tensor) -> Tensor:
    """All tokens of the batch, one below the other."""
    return x.flatten(0, 1)


SHAPE = {
    **each([aten.broadcast_to.default], lambda op, x: op(x[:, :, :1], x.shape)),
    **each([aten.broadcast_tensors.default], lambda op, x: op([x[:, :, :1], x])[0]),
    **each([aten.t.default, aten.numpy_T.default], lambda op, x: op(rows(x))),
    "numpy_T of three dimensions": Case(lambda x: aten.numpy_T.default(x)),
    **each([aten._unsafe_view.default], lambda op, x: op(x, (*x.shape[:2], 2, -1))),
    **each([aten.swapaxes.default, aten.swapdims.default], lambda op, x: op(x, 1, 2)),
    **each([aten.movedim.intlist], lambda op, x: op(x, (1, 2), (2, 1))),
    **each([aten.squeeze.default], lambda op, x: op(x.unsqueeze(0))),
    **each([aten.squeeze.dims], lambda op, x: op(x[None, :, None], (0, 2))),
    **each([aten.split.Tensor], lambda op, x: op(x, 2, -1)[1]),
    **each([aten.split.sizes], lambda op, x: op(x, [1, x.shape[2] - 1], -1)[1]),
    **each([aten.tensor_split.sections], lambda op, x: op(x, 2, -1)[1]),
    **each(
        [aten.concat.default, aten.concatenate.default],
        lambda op, x: op([x, x[:, :1] * 2], 1).sum(1),
        reduces,
    ),
    **each(
        [aten.pad.default, aten.constant_pad_nd.default],
        lambda op, x: op(x, [1, 0, 0, 2]).mT @ op(x, [0, 0, 0, 2]),
        reduces,
    ),
    "a complex operand": Case(lambda x, y: x * torch.view_as_complex(y).abs(), ("C2",)),
}

OVER_CHANNELS = [
    aten.argmax.default,
    aten.argmin.default,
    aten.cumprod.default,
    aten.flip.default,
    aten.prod.dim_int,
    aten.std.correction,
    aten.std.dim,
    aten.var.correction,
]
REDUCE = {
    **each([aten.amin.default], lambda op, x: op(x, [1]), reduces),
    **each([aten.all.dim], lambda op, x: op(x > -1, 1), reduces),
    **each([aten.all.default, aten.any.default], lambda op, x: op(x > 0), reduces),
    **each([aten.min.default, aten.sum.default], lambda op, x: op(x), reduces),
    **each(OVER_CHANNELS, lambda op, x: op(x, _channels(op))),
    **each([aten.norm.ScalarOpt_dim], lambda op, x: op(x, 2, [-1])),
    **each([aten.roll.default], lambda op, x: op(x, [1], [-1])),
    **each([aten.sort.stable], lambda op, x: op(x, stable=True, dim=-1)[0]),
    **each(
        [aten.median.dim, aten.min.dim, aten.mode.default, aten.sort.default],
        lambda op, x: op(x, -1)[0],
    ),
}


def _channels(op: Any) -> int | list[int]:
    """The last dimension, in a list where the op may reduce several."""
    takes_list = any(
        a.name in ("dim", "dims") and "List" in str(a.type) for a in op._schema.arguments
    )
    return [-1] if takes_list else -1


NORMALISE = {
    **each([aten._softmax.default, aten._log_softmax.default], lambda op, x: op(x, 1, False)),
    "group norm of each token": Case(lambda x: F.group_norm(rows(x), 2)),
    "instance norm of each token": Case(lambda x: F.instance_norm(rows(x).unflatten(1, (2, -1)))),
}

CONTRACT = {
    "mm": Case(lambda x, w: torch.mm(rows(x), w), ("C4",)),
    "addmm": Case(lambda x, b, w: torch.addmm(b, rows(x), w, alpha=2), ("4", "C4")),
    "conv2d of width 1": Case(lambda x, w: F.conv2d(x.mT[..., None], w), ("4C11",)),
    "conv3d of width 1": Case(lambda x, w: F.conv3d(x.mT[..., None, None], w), ("4C111",)),
}

INDEX = {
    "embedding of each token's kind": Case(
        lambda x, w: F.embedding((x[..., 0] > 0).long(), w), ("23",)
    ),
    "embedding in tokens": lifted(lambda x: F.embedding(torch.tensor([1, 3]), rows(x))),
    "take_along_dim": lifted(lambda x: x.take_along_dim(x.argsort(1), 1)),
}

OP_CASES = POINTWISE | SHAPE | REDUCE | NORMALISE | CONTRACT | INDEX

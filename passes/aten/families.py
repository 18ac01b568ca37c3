"""Families of ops: the one table of which op does what to values.

Every stage that asks what kind an op is asks here. What an op does to dimensions is said by its
token rule (``rules/``), and by nothing else.
"""

from __future__ import annotations

import torch
from torch._ops import OpOverload, OpOverloadPacket

aten = torch.ops.aten


def pure_overloads(*ops: OpOverload | OpOverloadPacket) -> tuple[OpOverload, ...]:
    """The ops; for a packet, all its overloads that mutate nothing. None comes twice.

    But for those that call dims by name, as some releases of torch have: no traced graph has any.
    """
    found: list[OpOverload] = []
    for op in ops:
        if isinstance(op, OpOverload):
            found.append(op)
            continue
        overloads = [getattr(op, name) for name in op.overloads()]
        found += [x for x in overloads if is_pure(x) and not _names_dims(x)]
    return tuple(dict.fromkeys(found))


def is_pure(op: OpOverload) -> bool:
    """Does it write to none of its operands?"""
    return not op._schema.is_mutable


def _names_dims(op: OpOverload) -> bool:
    return any("Dimname" in str(argument.type) for argument in op._schema.arguments)


# Operands that lend a dtype, a device or a shape, and no values.

FILLS = (aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.zero, aten.fill)
"""A value for all elements, in the shape of the first operand."""

DRAWS = (
    aten.rand_like,
    aten.randn_like,
    aten.randint_like.default,
    aten.randint_like.generator,
    aten.randint_like.low_dtype,
    aten.randint_like.low_generator_dtype,
    aten.bernoulli.p,
    aten.bernoulli.Tensor,
    aten.random.default,
    aten.random.to,
    aten.uniform,
    aten.normal_functional,
    aten.exponential,
    aten.geometric,
    aten.cauchy,
    aten.log_normal,
)
"""A random value for each element, in the shape of the first operand."""

NEW = (aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty, aten.new_empty_strided)
"""A tensor of a size given in numbers."""

CASTS = (aten.to.other, aten.type_as)
"""The first operand, in the dtype and on the device of the second."""

RESHAPES = (aten.view_as, aten.reshape_as)
"""The first operand, in the shape of the second."""

_LENDERS = {
    "self": (*FILLS, *DRAWS, *NEW, aten.copy.default),
    "other": (*CASTS, *RESHAPES, aten.expand_as),
}

LENT: dict[OpOverload, str] = {
    op: argument for argument, ops in _LENDERS.items() for op in pure_overloads(*ops)
}
"""Which argument of an op only lends."""

# Values that stay what they are.

SAME_VALUES = pure_overloads(
    *CASTS,
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten._to_copy,
    aten.contiguous,
    aten.clone,
    aten.alias,
    aten.detach,
    aten.lift_fresh_copy,
)
"""The first operand, in another dtype, elsewhere, or as it is."""

REPEATED = (*SAME_VALUES, aten.copy.default)
"""Elements of one operand, where they are, or repeated."""

FILLED = pure_overloads(
    aten.zeros,
    aten.ones,
    aten.full,
    aten.zeros_like,
    aten.ones_like,
    aten.full_like,
    aten.zero,
    aten.fill,
    aten.new_zeros,
    aten.new_ones,
    aten.new_full,
)
"""One value for all elements."""

FUSING = (
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
)
"""Dimensions fused, or parted: heads with the batch."""

STRIDED = (
    aten.as_strided.default,
    aten.view_as_complex.default,
    aten.view.dtype,
    aten.take_along_dim.default,
)
"""What depends on the strides of the operand, or takes a view of it."""

SHAPES = (aten.sym_size.int, aten._assert_tensor_metadata.default)
"""What reads a shape or a dtype, and no value."""

# Arithmetic, element by element.

ADDITIONS = (aten.add.Tensor,)
SUBTRACTIONS = (aten.sub.Tensor, aten.subtract.Tensor)
SUMS = (*ADDITIONS, *SUBTRACTIONS, aten.rsub.Tensor)

DIVISIONS = pure_overloads(
    aten.div.Tensor,
    aten.div.Scalar,
    aten.divide.Tensor,
    aten.divide.Scalar,
    aten.true_divide,
)
SCALING = (*pure_overloads(aten.mul, aten.multiply), *DIVISIONS)
"""Products and quotients: nothing is left of one operand where the other one is zero."""

WHERE = (aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther)
FILLING = (aten.masked_fill.Scalar, aten.masked_fill.Tensor)
"""A choice by a condition, and elements replaced where it holds."""

# Attention.

SDPA = aten.scaled_dot_product_attention.default
SOFTMAX = (aten.softmax.int, aten._softmax.default)
LOG_SOFTMAX = (aten.log_softmax.int, aten._log_softmax.default)
EXPONENTIAL = (*SOFTMAX, aten.exp.default, aten.exp2.default)
ALIKE = (*SAME_VALUES, aten.dropout.default)
"""What hands scores and weights on as they are."""

TRIANGLES = (aten.tril.default, aten.triu.default)

# Products that sum over a dimension.

MATRICES = {
    aten.matmul.default: ("self", "other"),
    aten.mm.default: ("self", "mat2"),
    aten.bmm.default: ("self", "mat2"),
    aten.baddbmm.default: ("batch1", "batch2"),
    aten.addmm.default: ("mat1", "mat2"),
}
"""The operands of a·b, which sum over the last dimension of a and the last but one of b."""

ADDMM = (aten.baddbmm.default, aten.addmm.default)
"""Products to which something is added."""

CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)

COSTLY = frozenset(
    {
        *MATRICES,
        *CONVOLUTIONS,
        SDPA,
        aten.linear.default,
        aten.einsum.default,
        aten.conv_transpose2d.input,
    }
)
"""Products whose FLOPs count."""

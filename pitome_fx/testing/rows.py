"""Values of the dense program as rows of tokens, laid out by the labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import Dim
from pitome_fx.passes.tokens.spaces import TokenSpace


def rows_around(
    x: Tensor,
    dims: Sequence[Dim],
    dim: int,
    space: TokenSpace,
    length_of: Callable[[Axis], int],
    token: Axis | None = None,
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """x as (B, N, F) around one dimension, and the way back to the layout of x.

    Of a dimension that is a product of axes, tokens are ``token``, or if that is None all
    but the batch.

    Args:
        length_of: the length of an axis in this run.
    """
    lengths: list[int] = []
    roles: list[Axis | str] = []
    for d, axes in enumerate(dims):
        other = "token" if d == dim else "rest"
        if len(axes) <= 1:
            lengths.append(x.shape[d])
            roles += [a.axis if a.axis in space.batch else other for a in axes] or [other]
            continue
        for atom in axes:
            role = atom.axis if atom.axis in space.batch else other
            if role == "token" and token not in (None, atom.axis):
                role = "rest"
            if role == "token" and roles and roles[-1] == "token":
                lengths[-1] *= length_of(atom.axis)
                continue
            lengths.append(length_of(atom.axis))
            roles.append(role)
    order = [roles.index(axis) for axis in space.batch]
    order.append(roles.index("token"))
    order += [i for i, role in enumerate(roles) if role == "rest"]
    split = x.reshape(lengths).permute(order)
    lead = math.prod(split.shape[: len(space.batch)])
    rows = split.reshape(lead, split.shape[len(space.batch)], -1)

    def back(changed: Tensor) -> Tensor:
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return changed.reshape(split.shape).permute(inverse).reshape(x.shape)

    return rows, back

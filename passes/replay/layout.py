"""Where a tensor lies in memory: strides and storage offset of another, gaps included."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.fx.experimental.symbolic_shapes import statically_known_true

from pitome_fx.passes.tokens.sizes import Size, divided, hint, same_size

aten = torch.ops.aten


def lies_like(x: Tensor, like: Tensor) -> bool:
    """Has x the strides and the offset of ``like``?"""
    return same_size(x.storage_offset(), like.storage_offset()) and all(
        map(same_size, x.stride(), like.stride())
    )


def laid_out(x: Tensor, like: Tensor) -> Tensor:
    """x with the strides and the offset of ``like``, which has its shape.

    Where these leave gaps it is a part of a larger tensor of zeros. Where ``like`` overlaps itself
    and x does not, or the gaps cannot be made of whole dimensions, only the order of the strides
    is that of ``like``.
    """
    if lies_like(x, like):
        return x
    strides, rank = like.stride(), range(x.dim())
    shared = [d for d in rank if _is_zero(strides[d]) and _is_zero(x.stride(d))]
    rest = sorted(set(rank) - set(shared), key=lambda d: hint(strides[d]), reverse=True)
    data = x
    for d in shared:
        data = data.narrow(d, 0, 1)
    order = [*shared, *rest]
    data = data.permute(order)
    room = _room([like.shape[d] for d in rest], [strides[d] for d in rest], like.storage_offset())
    if room is None or all(map(_is_none, room)):
        # A copy even of what counts as contiguous: strides of dimensions of size 1 may differ.
        data = data.clone(memory_format=torch.contiguous_format)
    else:
        data = _padded(data, [(0, 0)] * len(shared) + room)
    data = data.permute(sorted(rank, key=order.__getitem__))
    return data.expand(x.shape) if shared else data


def _is_zero(size: Size) -> bool:
    return isinstance(size, int) and size == 0


Room = list[tuple[Size, Size]]
"""Per dimension, how many zeros lie before it and behind it."""


def _is_none(zeros: tuple[Size, Size]) -> bool:
    return all(map(_is_zero, zeros))


def _room(sizes: list[Size], strides: list[Size], offset: Size) -> Room | None:
    """The room that a dense tensor needs around these dimensions, outermost first, to give them
    these strides. The last entry is for one more dimension, of size 1. None if there is no such.
    """
    whole: list[Size] = []
    for outer, inner in pairwise([*strides, 1]):
        quotient = None if _is_zero(inner) else divided(outer, inner)
        if quotient is None:
            return None
        whole.append(quotient)
    first = _digits(offset, [*strides, 1])
    room: Room = [(first[0], 0)]
    for size, start, full in zip([*sizes[1:], 1], first[1:], whole, strict=True):
        with disable_proxy_modes_tracing():
            fits = statically_known_true(start + size <= full)
            # Where a dimension is empty, strides are those of a size of 1.
            fills = _is_zero(start) and statically_known_true(full == torch.sym_max(size, 1))
        if not fits:
            return None
        room.append((start, 0 if fills else full - start - size))
    return room


def _digits(offset: Size, strides: list[Size]) -> list[Size]:
    """The offset as a place on every dimension; a symbolic one lies on the last but one."""
    digits: list[Size] = []
    for i, stride in enumerate(strides):
        if isinstance(offset, int) and isinstance(stride, int):
            digit: Size = offset // stride
        else:
            quotient = divided(offset, stride) if i >= len(strides) - 2 else None
            digit = 0 if quotient is None else quotient
        digits.append(digit)
        if not _is_zero(digit):
            offset = offset - digit * stride
    return digits


def _padded(x: Tensor, room: Room) -> Tensor:
    padding = [n for pair in reversed(room) for n in pair]
    whole = aten.constant_pad_nd.default(x.unsqueeze(-1), padding)
    for d, (start, _) in enumerate(room[:-1]):
        if not _is_none(room[d]):
            whole = whole.narrow(d, start, x.shape[d])
    return whole.select(-1, room[-1][0])

"""Bodies of the pitome ops for engines that know few ops: TensorRT, ONNX Runtime, OpenVINO.

Each computes what the body of the same name in ``ops`` computes, ties and values that are not
finite included, without scatter, gather, stable sort or ``max.dim``, which engines lack, unroll
or get wrong. Who belongs to a group is a one-hot matrix, ``eq(arange)``; groups are formed by its
product with the tokens; an order is ``topk`` of ranks; rows are picked by advanced indexing.
Letters as in ``ops``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true, sym_and
from torch.overrides import TorchFunctionMode

from pitome_fx import matching
from pitome_fx.algorithms.common import joins

MAX_DOUBLINGS = 24
"""Doublings that span any symbolic number of tokens."""


def rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` (B, n) of x (B, T) or (B, T, D)."""
    batch = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    return x[batch, index]


def gather(x: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """``x.gather(dim, index)`` by advanced indexing; its gradient is always dense."""
    if x.dim() == 0:
        return x.expand(index.shape)
    dim %= x.dim()
    if dim == 1 and x.dim() == 3 and _is_expanded(index, x):
        return rows(x, index[..., 0])
    places: list[Tensor] = []
    for d in range(x.dim()):
        shape = [-1 if e == d else 1 for e in range(x.dim())]
        places.append(torch.arange(index.shape[d], device=x.device).view(shape))
    places[dim] = index
    return x[tuple(places)]


def _is_expanded(index: Tensor, x: Tensor) -> bool:
    """Is the index the same for all channels, and for all items of x?"""
    # Sizes that are only the same by chance must not be guarded on.
    whole = statically_known_true(
        sym_and(index.shape[0] == x.shape[0], index.shape[2] == x.shape[2])
    )
    same = statically_known_true(index.stride(2) == 0) or statically_known_true(index.shape[2] == 1)
    return whole and same


def stable_order(x: Tensor, descending: bool = False) -> Tensor:
    """Indices that sort the last axis of x, (…, n) → (…, n), equal values by position.

    ``topk`` leaves the order of equal values open, and padding is all equal. Ranks, found by
    counting what comes before, differ. As in ``torch.sort``, NaN is the greatest.
    """
    place = torch.arange(x.shape[-1], device=x.device)
    own, other = x.unsqueeze(-1), x.unsqueeze(-2)
    equal, first = other == own, other > own if descending else other < own
    if x.dtype.is_floating_point:
        # NaN, which compares as false, is equal to NaN and greater than all else.
        own_nan, other_nan = own != own, other != other
        equal = equal | (own_nan & other_nan)
        greater = other_nan & ~own_nan if descending else own_nan & ~other_nan
        first = first | greater
    before = (equal & (place < place.unsqueeze(-1))) | first
    rank = before.to(torch.float32).sum(-1)
    return rank.topk(x.shape[-1], largest=False).indices


def argsort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """``torch.argsort``, always stable."""
    return stable_order(x.transpose(dim, -1), descending).transpose(dim, -1)


def sort(
    x: Tensor, dim: int = -1, descending: bool = False, stable: bool = False
) -> torch.return_types.sort:
    """``torch.sort``, always stable."""
    order = argsort(x, dim, descending)
    return torch.return_types.sort((gather(x, dim, order), order))


def expm1(x: Tensor) -> Tensor:
    """``torch.expm1``, to 1e-7 beside 1."""
    return x.exp() - 1


EQUALS: dict[Any, Callable[..., Any]] = {
    torch.gather: gather,
    torch.Tensor.gather: gather,
    torch.argsort: argsort,
    torch.Tensor.argsort: argsort,
    torch.sort: sort,
    torch.Tensor.sort: sort,
    torch.expm1: expm1,
    torch.Tensor.expm1: expm1,
}
"""Calls that engines cannot take, and what is called in their place in a match."""


class _PortableCalls(TorchFunctionMode):
    """While active, calls that engines cannot take become calls of their equals."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return EQUALS.get(func, func)(*args, **(kwargs or {}))


def match(metric: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The registered algorithm itself; orders and picks in it are made portable."""
    with _PortableCalls():
        return matching.match(metric, *rest)


def weigh(kept: Tensor, moved: Tensor, target: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """The registered algorithm's own weights; orders and picks in them are made portable."""
    with _PortableCalls():
        return matching.weigh(kept, moved, target, *rest)


def combine(x: Tensor, kept: Tensor, moved: Tensor, own: Tensor, mix: Tensor) -> Tensor:
    """own·x_kept + mix·x_moved: x (B, N, F) → (B, N', F)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    with matching.full_precision(x):
        joined = _sum_in_groups(mix.to(wide), rows(x, moved).to(wide))
        return (rows(x, kept).to(wide) * own.to(wide).unsqueeze(-1) + joined).to(x.dtype)


def merge_size(size: Tensor, kept: Tensor, moved: Tensor, target: Tensor) -> Tensor:
    """Sizes (B, N') of the groups that tokens of sizes (B, N) form."""
    joining = joins(kept.shape[1], target) * rows(size, moved).unsqueeze(1)
    return rows(size, kept) + joining.sum(-1)


def merge(x: Tensor, size: Tensor, kept: Tensor, moved: Tensor, target: Tensor) -> Tensor:
    """Size-weighted mean of each group: x (B, N, F) → (B, N', F)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    with matching.full_precision(x):
        weight = size.to(wide)
        joining = joins(kept.shape[1], target) * rows(weight, moved).unsqueeze(1)
        total = rows(weight, kept) + joining.sum(-1)
        share = joining / total.unsqueeze(-1)
        own = 1 - share.sum(-1, keepdim=True)
        joined = _sum_in_groups(share, rows(x, moved).to(wide))
        return (rows(x, kept).to(wide) * own + joined).to(x.dtype)


def _sum_in_groups(weights: Tensor, values: Tensor) -> Tensor:
    """weights (B, N', n) @ values (B, n, F); what is not finite stays in its group.

    A plain product would spread it, as 0 · ∞ is NaN. NaN counts as +∞ and −∞ at once.
    """
    finite = values.abs() < torch.inf
    up = finite.logical_not() & (values != -torch.inf)
    down = finite.logical_not() & (values != torch.inf)
    beyond = torch.cat([up, down], -1).to(values.dtype)
    up, down = ((weights > 0).to(values.dtype) @ beyond > 0).chunk(2, -1)
    total = weights @ torch.where(finite, values, 0)
    return total + torch.where(up, torch.inf, 0.0) + torch.where(down, -torch.inf, 0.0)


def assignment(kept: Tensor, moved: Tensor, target: Tensor) -> Tensor:
    """The group of each token, (B, N) with values in [0, N')."""
    batch, groups = kept.shape
    index = torch.cat([kept, moved], 1)
    group = torch.arange(groups, device=kept.device).expand(batch, -1)
    place = joins(index.shape[1], index).to(torch.float32).argmax(-1)
    return rows(torch.cat([group, target], 1), place)


def project(x: Tensor, assign: Tensor, size: Tensor) -> Tensor:
    """Plain mean over the members of each group: x (B, N, F) → (B, N', F).

    As in ``ops``, one member plus the mean distance from it; here the first member.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    with matching.full_precision(x):
        values = x.to(wide)
        belongs = joins(size.shape[1], assign).to(wide)
        first = rows(values, belongs.argmax(-1)).detach()
        member = torch.where(first.abs() < torch.inf, first, 0)
        share = rows(1 / size.to(wide), assign).unsqueeze(-1)
        distance = values * share - rows(member, assign) * share
        return (member + _sum_in_groups(belongs, distance)).to(x.dtype)


def group_logsumexp(bias: Tensor, assign: Tensor, size: Tensor) -> Tensor:
    """log Σ exp over the members of each group: bias (B, N, F) → (B, N', F)."""
    wide = torch.promote_types(bias.dtype, torch.float32)
    with matching.full_precision(bias):
        values = bias.to(wide)
        highest = _highest(values.detach(), assign, size.shape[1])
        known = highest.abs() < torch.inf
        peak = torch.where(known, highest, 0)
        terms = torch.exp(values - rows(peak, assign))
        total = joins(size.shape[1], assign).to(wide) @ torch.where(terms < torch.inf, terms, 0)
        log_total = torch.where(known, total, 1).log() + peak
        return torch.where(known, log_total, highest).to(bias.dtype)


def _highest(values: Tensor, assign: Tensor, groups: int) -> Tensor:
    """The highest member of each group, (B, N, F) → (B, N', F).

    With the tokens ordered by group, each takes the higher of its own value and that of the token
    1, 2, 4, … places on in the same group; the first of a group has then seen them all.
    """
    tokens = assign.shape[1]
    order = stable_order(assign)
    group, values = rows(assign, order), rows(values, order)
    place = torch.arange(tokens, device=assign.device)
    doublings = (tokens - 1).bit_length() if isinstance(tokens, int) else MAX_DOUBLINGS
    for step in range(doublings):
        ahead = (place + 2**step).clamp(max=tokens - 1)
        same = (group.index_select(1, ahead) == group).unsqueeze(-1)
        higher = torch.maximum(values, values.index_select(1, ahead))
        values = torch.where(same, higher, values)
    group = torch.arange(groups, device=assign.device).view(1, -1, 1)
    start = (assign.unsqueeze(1) < group).sum(-1)
    return rows(values, start)


PORTABLE: dict[str, Callable[..., Any]] = {
    "match": match,
    "weigh": weigh,
    "combine": combine,
    "importance": matching.importance,
    "merge_size": merge_size,
    "merge": merge,
    "assignment": assignment,
    "unmerge": rows,
    "pick": rows,
    "project": project,
    "group_logsumexp": group_logsumexp,
}
"""Name of a pitome op → its portable body."""

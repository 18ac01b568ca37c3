"""Bringing operands that broadcast against each other into common token spaces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor

from pitome_fx.passes.replay.apart import batch_axes, hide
from pitome_fx.passes.replay.step import Step
from pitome_fx.passes.replay.treatment import How, Treatment
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import Atom, Dim, TokenTensor, is_merged, is_single, length
from pitome_fx.passes.tokens.moves import mean_exp_keys, pick, project
from pitome_fx.passes.tokens.rule import Lift
from pitome_fx.passes.tokens.sizes import Size, same_size
from pitome_fx.passes.tokens.spaces import JoinedSpace


def align(
    step: Step,
    operands: Sequence[TokenTensor],
    trailing: int = 0,
    batch: frozenset[Axis] = frozenset(),
) -> tuple[list[TokenTensor], tuple[Dim, ...]]:
    """Align operands at their last dimensions and merge along those that are still dense.

    Args:
        step: the node being replayed.
        operands: tensors that broadcast; their last ``trailing`` dimensions take no part.
        batch: axes that must keep their names, beside those that the operands' spaces need.

    Returns:
        The operands, now broadcasting in their merged shapes, and the dimensions of the result
        (without the trailing ones).

    Raises:
        Lift: two dimensions that meet are in unrelated token spaces; or a dense one that meets a
            merged one was computed from merged values, or is not floating point.
    """
    rank = max((len(x.dims) - trailing for x in operands), default=0)
    batch = batch_axes(operands) | batch
    # Dimensions are named by what is computed, before what it is masked with or shifted by.
    naming = sorted(operands, key=lambda x: (not x.data.is_floating_point(), _singles(x, rank)))
    target = tuple(meet([_at(x, p, trailing) for x in naming], batch) for p in range(-rank, 0))
    operands = [_paired(x, target, trailing) for x in operands]
    if not any(is_merged(dim) for dim in target):
        return list(operands), target
    return [_bring(step, x, target, trailing) for x in operands], target


def _paired(x: TokenTensor, target: tuple[Dim, ...], trailing: int) -> TokenTensor:
    """x with its batch axes named as the target's: what meets in a broadcast is item by item."""
    batch = batch_axes([x])
    names: dict[Axis, Axis] = {}
    for p in range(-len(target), 0):
        own = _at(x, p, trailing)
        if len(own) == len(target[p]):
            names |= {
                a.axis: b.axis
                for a, b in zip(own, target[p], strict=True)
                if a.axis in batch and a.axis is not b.axis and same_size(a.axis.size, b.axis.size)
            }
    if not names:
        return x
    dims = tuple(
        tuple(
            Atom(names.get(atom.axis, atom.axis), atom.space and atom.space.paired(names))
            for atom in dim
        )
        for dim in x.dims
    )
    return replace(x, dims=dims)


def _singles(x: TokenTensor, rank: int) -> int:
    """Along how many of the result's dimensions x is broadcast."""
    return rank - sum(not is_single(dim) for dim in x.dims)


def _at(x: TokenTensor, position: int, trailing: int) -> Dim:
    """The dimension of x at a (negative) position of the result, () if it has none."""
    index = len(x.dims) - trailing + position
    return x.dims[index] if index >= 0 else ()


def meet(dims: Sequence[Dim], batch: frozenset[Axis] = frozenset()) -> Dim:
    """The dimension that results where these meet in a broadcast.

    A batch axis that merged operands need keeps its name.
    """
    present = [dim for dim in dims if not is_single(dim)] or [dim for dim in dims if dim]
    merged = [dim for dim in present if is_merged(dim)]
    for dim in merged:
        if all(other == dim or _is_earlier(other, dim) for other in merged):
            return dim
    if merged:
        raise Lift("tensors in unrelated token spaces meet")
    needed = [dim for dim in present if any(atom.axis in batch for atom in dim)]
    return min(needed or present, key=_weak_axes, default=())


def _weak_axes(dim: Dim) -> int:
    return sum(atom.axis.weak for atom in dim)


def _is_earlier(dim: Dim, later: Dim) -> bool:
    """Is ``dim`` the same dimension in an earlier merge state?"""
    return len(dim) == len(later) and all(
        a.axis is b.axis
        and (
            a.space is b.space
            or (b.space is not None and (a.space is None or b.space.descends_from(a.space)))
        )
        for a, b in zip(dim, later, strict=True)
    )


def _bring(step: Step, x: TokenTensor, target: tuple[Dim, ...], trailing: int) -> TokenTensor:
    """Merge the dimensions of one operand along, as far as the target asks for it."""
    treatment = step.treatment(x)
    if not trailing:
        x = _one_row(x, treatment, target[-1])
    behind = [
        p
        for p in range(-len(target), 0)
        if is_merged(target[p])
        and _at(x, p, trailing) != target[p]
        and not is_single(_at(x, p, trailing))
    ]
    if not behind:
        return x
    by_weight = treatment.how is How.WEIGHT
    for p in behind:
        # What keys weigh is brought along exactly, whatever it was computed from.
        exact = by_weight and p == -1
        if not is_merged(_at(x, p, trailing)) and x.tainted and not exact:
            raise Lift("a value computed after an unmerge meets a merged one")
    if treatment.refusal:
        raise Lift(treatment.refusal)
    picked = not has_mean(x.data)
    agree = not trailing and all(_members_agree(x, treatment, p, target[p]) for p in behind)
    if picked and not agree:
        raise Lift("a bool or integer value per token cannot be averaged")
    # One value often meets the same space many times (a rotary table, in every layer's q and k).
    key = (id(x.data), target, trailing, by_weight)
    cache = step.replay.brought
    if key not in cache:
        named = with_batch(x, target, behind, trailing)
        cache[key] = (x, named, _move(named, target, behind, trailing, by_weight))
    _, named, result = cache[key]
    for p in behind:
        dim = len(named.dims) - trailing + p
        if picked or (by_weight and p == -1):
            continue
        step.note_projection(named, dim, target[p], "meets merged tokens")
    return result


def _move(
    x: TokenTensor, target: tuple[Dim, ...], behind: list[int], trailing: int, by_weight: bool
) -> TokenTensor:
    """Bring the dimensions into the target's spaces: by the mean over groups; where all members
    are known to agree, by any of them; what keys weigh so that it is exact."""
    for p in behind:
        dim = len(x.dims) - trailing + p
        if not has_mean(x.data):
            x = pick(x, dim, target[p])
        elif by_weight and p == -1:
            x = mean_exp_keys(x, dim, target[p])
        else:
            x = project(x, dim, target[p])
    return x


def has_mean(x: Tensor) -> bool:
    """Can values of its dtype be averaged, and multiplied by a size?"""
    return x.is_floating_point() or x.is_complex()


def _one_row(x: TokenTensor, treatment: Treatment, keys: Dim) -> TokenTensor:
    """What was expanded over the queries, as the one row that it is."""
    if not treatment.one_row or len(x.dims) < 2 or not _members_agree(x, treatment, -1, keys):
        return x
    return x.holding(x.data.narrow(-2, 0, 1)).named(-2, ())


def _members_agree(x: TokenTensor, treatment: Treatment, position: int, target: Dim) -> bool:
    """Do all members of a group agree on x, because merging kept its two kinds apart?"""
    return (
        treatment.how is How.MEMBER
        and keeps_apart(target, treatment.kinds)
        and all(is_single(dim) for dim in x.dims[len(x.dims) + position + 1 :])
    )


def keeps_apart(tokens: Dim, kinds: int | None) -> bool:
    """Did every merge of these tokens keep the two kinds of this number apart?"""
    space = tokens[0].space if len(tokens) == 1 else None
    return space is not None and kinds in space.kinds


def with_batch(
    x: TokenTensor,
    target: tuple[Dim, ...],
    behind: list[int],
    trailing: int,
    batch: Iterable[Axis] = (),
) -> TokenTensor:
    """Name the dimensions of x like the target's, and expand it over the batch axes.

    Those are the axes ``batch`` and the ones that the token spaces at ``behind`` need.
    """
    spaces = (atom.space for p in behind for atom in target[p] if atom.space is not None)
    needed = {*batch, *(axis for space in spaces for axis in space.batch)}
    missing = len(target) + trailing - len(x.dims)
    data = x.data[(None,) * missing] if missing else x.data
    dims: list[Dim] = [()] * missing + list(x.dims)
    shape: list[Size] = [-1] * len(dims)
    for p in range(-len(target), 0):
        index = len(dims) - trailing + p
        if p in behind and not is_merged(dims[index]):
            continue
        carries_batch = any(atom.axis in needed for atom in target[p])
        if carries_batch and is_single(dims[index]):
            shape[index] = length(target[p])
            dims[index] = target[p]
        elif (
            not is_merged(dims[index])
            and not is_merged(target[p])
            and same_size(data.shape[index], length(target[p]))
        ):
            dims[index] = tuple(Atom(atom.axis) for atom in target[p])
    if any(size != -1 for size in shape):
        data = data.expand(shape)
    return x.holding(data, tuple(dims))


def align_along(
    step: Step, a: TokenTensor, b: TokenTensor, dim: int
) -> tuple[TokenTensor, TokenTensor]:
    """Bring two operands into common spaces along ``dim`` (−1 or −2) and the leading dimensions.

    The other one of the last two dimensions is each operand's own and stays.
    """
    other = -3 - dim
    if is_joined_alike(a.dims[dim], b.dims[dim]):
        b = b.named(dim, a.dims[dim])
    (left, right), _ = align(step, [hide(a, other), hide(b, other)], batch=batch_axes([a, b]))
    return left.named(other, a.dims[other]), right.named(other, b.dims[other])


def is_joined_alike(a: Dim, b: Dim) -> bool:
    """Are both concatenations of the same merged tokens and of as many others, made one by one?"""
    spaces = [dim[0].space if len(dim) == 1 else None for dim in (a, b)]
    parts = [space.parts for space in spaces if isinstance(space, JoinedSpace)]
    return (
        len(parts) == 2
        and len(parts[0]) == len(parts[1])
        and all(
            same_size(m, n) and own is other for (m, own), (n, other) in zip(*parts, strict=True)
        )
    )

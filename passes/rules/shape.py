"""Ops that move elements without changing them: the same op with token counts replaced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from pitome_fx.passes.replay.step import Step
from pitome_fx.passes.tokens.dims import Atom, Dim, TokenTensor, fuse, is_merged, is_single, length
from pitome_fx.passes.tokens.rule import Lift, rule
from pitome_fx.passes.tokens.sizes import Size, divided

aten = torch.ops.aten


@rule(aten.view.default, aten.reshape, aten._unsafe_view, moves=True)
def view(step: Step, x: TokenTensor, shape: Sequence[Size]) -> TokenTensor:
    """The literals of dimensions that carry merged tokens become their present lengths."""
    dims = refactor(step, x, step.value.shape)
    if not x.merged:
        return TokenTensor(step(x, shape), dims)
    sizes = [length(dim) if is_merged(dim) else size for dim, size in zip(dims, shape, strict=True)]
    # A view of the dense tensor may be none of the merged one: merging changes strides.
    return TokenTensor(step.run(aten.reshape.default, x, sizes), dims)


@rule(aten.flatten.using_ints, moves=True)
def flatten(step: Step, x: TokenTensor, start_dim: int = 0, end_dim: int = -1) -> TokenTensor:
    """Start and end say it all: no literal to replace."""
    return TokenTensor(step(x, start_dim, end_dim), refactor(step, x, step.value.shape))


@rule(aten.unflatten.int, moves=True)
def unflatten(step: Step, x: TokenTensor, dim: int, sizes: Sequence[Size]) -> TokenTensor:
    """Like view, on one dimension."""
    dims = refactor(step, x, step.value.shape)
    if not x.merged:
        return TokenTensor(step(x, dim, sizes), dims)
    dim %= len(x.dims)
    new = [
        length(d) if is_merged(d) else size
        for d, size in zip(dims[dim : dim + len(sizes)], sizes, strict=True)
    ]
    return TokenTensor(step(x, dim, new), dims)


@rule(aten.squeeze, moves=True)
def squeeze(step: Step, x: TokenTensor, *dim: Any) -> TokenTensor:
    """Only dimensions that have size 1 in the dense program go, not tokens in a single group."""
    dims = refactor(step, x, step.value.shape)
    if not x.merged:
        return TokenTensor(step(x, *dim), dims)
    return TokenTensor(step.run(aten.reshape.default, x, [length(d) for d in dims]), dims)


@rule(aten.unsqueeze, moves=True)
def unsqueeze(step: Step, x: TokenTensor, dim: int) -> TokenTensor:
    """One more dimension of size 1."""
    return TokenTensor(step(x, dim), refactor(step, x, step.value.shape))


def refactor(step: Step, x: TokenTensor, shape: Sequence[Size]) -> tuple[Dim, ...]:
    """Dimensions of a reshape of x to the dense ``shape``, by factorising old against new.

    Raises:
        Lift: a merged axis would have to be split, or one that was merged in parts made whole.
    """
    atoms = [atom for dim in x.dims if not is_single(dim) for atom in dim][::-1]
    dims: list[Dim] = []
    for place, size in enumerate(shape):
        taken = _take(atoms, size)
        if taken is None:
            if any(atom.space is not None for atom in atoms):
                raise Lift("a reshape splits or mixes the merged token axis")
            return (*dims, *(step.fresh(d, shape[d]) for d in range(place, len(shape))))
        dims.append(fuse(taken))
        if _merged_axes(dims[-1]) != _merged_axes(taken):
            raise Lift("a reshape puts tokens together that were merged in parts")
    return tuple(dims)


def _merged_axes(atoms: Iterable[Atom]) -> int:
    return sum(atom.space is not None for atom in atoms)


def _take(atoms: list[Atom], size: Size) -> list[Atom] | None:
    """Pop from the end of ``atoms`` a product of ``size``, splitting the last one if it must."""
    taken: list[Atom] = []
    left = size
    while not (isinstance(left, int) and left == 1):
        if not atoms:
            return None
        atom = atoms.pop()
        quotient = divided(left, atom.axis.size)
        if quotient is not None:
            taken.append(atom)
            left = quotient
            continue
        rest = divided(atom.axis.size, left)
        if rest is None or atom.space is not None:
            atoms.append(atom)
            return None
        outer, inner = atom.axis.split(left, rest)
        atoms.append(Atom(inner))
        return [*taken, Atom(outer)]
    return taken


@rule(aten.permute, moves=True)
def permute(step: Step, x: TokenTensor, dims: Sequence[int]) -> TokenTensor:
    """Dimensions move with their axes."""
    return TokenTensor(step(x, dims), tuple(x.dims[d] for d in dims))


@rule(aten.transpose.int, aten.swapaxes, aten.swapdims, moves=True)
def transpose(step: Step, x: TokenTensor, dim0: int, dim1: int) -> TokenTensor:
    """Two dimensions change places."""
    dims = list(x.dims)
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return TokenTensor(step(x, dim0, dim1), tuple(dims))


@rule(aten.t.default, aten.numpy_T.default, aten.mT.default, moves=True)
def matrix_transpose(step: Step, x: TokenTensor) -> TokenTensor:
    """The last two dimensions (of a matrix: all) change places."""
    if len(x.dims) > 2 and step.node.target is aten.numpy_T.default:
        return TokenTensor(step(x), x.dims[::-1])
    return TokenTensor(step(x), (*x.dims[:-2], *x.dims[-2:][::-1]))


@rule(aten.movedim.int, aten.movedim.intlist, moves=True)
def movedim(step: Step, x: TokenTensor, source: Any, destination: Any) -> TokenTensor:
    """Dimensions move with their axes."""
    rank = len(x.dims)
    sources = [source] if isinstance(source, int) else list(source)
    places = [destination] if isinstance(destination, int) else list(destination)
    moved = {place % rank: s % rank for s, place in zip(sources, places, strict=True)}
    rest = iter(d for d in range(rank) if d not in moved.values())
    order = [moved[d] if d in moved else next(rest) for d in range(rank)]
    return TokenTensor(step(x, source, destination), tuple(x.dims[d] for d in order))


@rule(aten.expand, aten.broadcast_to, moves=True)
def expand(step: Step, x: TokenTensor, size: Sequence[Size], **kwargs: Any) -> TokenTensor:
    """Merged dimensions keep their present length; those of size 1 grow into new axes."""
    new = len(size) - len(x.dims)
    dims = _expanded(step, x)
    sizes = [
        -1 if i >= new and is_merged(dim) else n
        for i, (dim, n) in enumerate(zip(dims, size, strict=True))
    ]
    return TokenTensor(step(x, sizes, **kwargs), dims)


def _expanded(step: Step, x: TokenTensor) -> tuple[Dim, ...]:
    shape = step.value.shape
    new = len(shape) - len(x.dims)
    return tuple(
        x.dims[i - new]
        if i >= new and not is_single(x.dims[i - new])
        else step.fresh(i, n, weak=True)
        for i, n in enumerate(shape)
    )


@rule(aten.repeat_interleave.self_int, moves=True)
def repeat_interleave(
    step: Step, x: TokenTensor, repeats: Size, dim: int | None = None, **kwargs: Any
) -> TokenTensor:
    """Elements of one dimension are repeated; the others keep their axes."""
    if dim is None or is_merged(x.dims[dim]):
        if x.merged:
            raise Lift("tokens are repeated")
        return TokenTensor(step(x, repeats, dim, **kwargs), step.fresh_like(step.value))
    dim %= len(x.dims)
    dims = (*x.dims[:dim], step.fresh(dim, step.value.shape[dim]), *x.dims[dim + 1 :])
    return TokenTensor(step(x, repeats, dim, **kwargs), dims)


@rule(aten.view_as_complex)
def view_as_complex(step: Step, x: TokenTensor) -> TokenTensor:
    """The last dimension holds real and imaginary part."""
    if is_merged(x.dims[-1]):
        raise Lift("tokens are taken for real and imaginary parts")
    return TokenTensor(step(_contiguous(step, x)), x.dims[:-1])


@rule(aten.view_as_real)
def view_as_real(step: Step, x: TokenTensor) -> TokenTensor:
    """One more dimension, of real and imaginary part."""
    return TokenTensor(step(x), (*x.dims, step.fresh(len(x.dims), 2)))


def _contiguous(step: Step, x: TokenTensor) -> TokenTensor:
    """What was merged may have lost the strides that a view needs."""
    return TokenTensor(step.run(aten.contiguous.default, x), x.dims) if x.merged else x


@rule(aten.repeat, moves=True)
def repeat(step: Step, x: TokenTensor, repeats: Sequence[Size]) -> TokenTensor:
    """Only dimensions repeated once keep their axis."""
    new = len(repeats) - len(x.dims)
    shape = step.value.shape
    dims: list[Dim] = []
    for i, times in enumerate(repeats):
        dim = x.dims[i - new] if i >= new else ()
        once = isinstance(times, int) and times == 1
        if is_merged(dim) and not once:
            raise Lift("tokens are repeated")
        dims.append(dim if once else step.fresh(i, shape[i], weak=not dim))
    return TokenTensor(step(x, repeats), tuple(dims))

"""Products that sum over a dimension: matmul and its kin, and convolutions of width 1."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from pitome_fx.passes.replay.align import align, align_along
from pitome_fx.passes.replay.apart import keep_axes_apart, keep_dense, keep_items_apart
from pitome_fx.passes.replay.events import ProjectEvent
from pitome_fx.passes.replay.step import Step
from pitome_fx.passes.rules.reduce import bind, weighted
from pitome_fx.passes.tokens.dims import Atom, Dim, TokenTensor, is_merged
from pitome_fx.passes.tokens.rule import Lift, rule

aten = torch.ops.aten


@rule(aten.linear.default)
def linear(
    step: Step, x: TokenTensor, weight: TokenTensor, bias: TokenTensor | None = None
) -> TokenTensor:
    """Per token, if tokens are not what it sums over."""
    keep_items_apart(x, [-1])
    keep_dense(bias)
    if is_merged(x.dims[-1]) or weight.merged:
        raise Lift("a linear layer mixes tokens")
    last = len(x.dims) - 1
    dims = (*x.dims[:-1], step.fresh(last, step.value.shape[last]) if len(weight.dims) > 1 else ())
    extra = () if bias is None else (bias,)
    return TokenTensor(step(x, weight, *extra), dims[: step.value.dim()])


@rule(aten.matmul.default, aten.mm.default, aten.bmm.default)
def matmul(step: Step, a: TokenTensor, b: TokenTensor) -> TokenTensor:
    """A sum over tokens counts each group by its size."""
    a, b, lead = _operands(step, a, b)
    return TokenTensor(step(a, b), (*lead, *_outer(a, b)))


@rule(aten.baddbmm.default, aten.addmm.default)
def addmm(
    step: Step, added: TokenTensor, a: TokenTensor, b: TokenTensor, **scales: Any
) -> TokenTensor:
    """matmul, and something added that broadcasts against the result."""
    a, b, lead = _operands(step, a, b)
    dims = (*lead, *_outer(a, b))
    if not (a.merged or b.merged or added.merged):
        return TokenTensor(step(added, a, b, **scales), dims)
    product = step.run(aten.matmul.default, a, b) * scales.get("alpha", 1)
    if scales.get("beta", 1) == 0:
        # What is added then may be uninitialised memory: it must not be read.
        return TokenTensor(product.to(step.value.dtype), dims)
    whole = TokenTensor(product, dims, a.tainted or b.tainted)
    (added, whole), dims = align(step, [added, whole])
    total = added.data * scales.get("beta", 1) + whole.data
    # What autocast casts within the op it does not cast within a sum.
    return TokenTensor(total.to(step.value.dtype), dims)


def _operands(
    step: Step, a: TokenTensor, b: TokenTensor
) -> tuple[TokenTensor, TokenTensor, tuple[Dim, ...]]:
    """Both operands with batch and inner dimensions in common spaces, a weighted by size."""
    trailing = min(len(a.dims), len(b.dims), 2)
    if trailing < 2:
        if a.merged or b.merged:
            raise Lift("a product with a vector")
        columns = b.dims[-1:] if len(b.dims) > 1 else ()
        return a, b, a.dims[:-1] if len(a.dims) > 1 else (*b.dims[:-2], *columns)
    (a, b), lead = align(step, [a, b], trailing=2)
    keep_items_apart(a, [-1], b)
    keep_items_apart(b, [-2], a)
    a, b = _inner(step, a, b)
    keep_axes_apart([a, b], [*lead, *a.dims[-2:], b.dims[-1]])
    return weighted(a, [len(a.dims) - 1], aten.mul.Tensor), b, lead


def _inner(step: Step, a: TokenTensor, b: TokenTensor) -> tuple[TokenTensor, TokenTensor]:
    """Bring the dimension summed over into a common space."""
    a = a.named(-1, _as_parts(a.dims[-1]))
    b = b.named(-2, _as_parts(b.dims[-2]))
    if not (is_merged(a.dims[-1]) or is_merged(b.dims[-2])) or a.dims[-1] == b.dims[-2]:
        return a, b
    # Seen as a·bᵀ summed over the last dimension, the two simply broadcast.
    known = len(step.projections)
    left, right = align_along(step, a, _transposed(b), -1)
    for i, event in enumerate(step.projections[known:], known):
        if event.operand is b.origin:
            step.projections[i] = _turned(event)
    return left, _transposed(right)


def _turned(event: ProjectEvent) -> ProjectEvent:
    """Told of the operand as it is, not as it was transposed."""
    *lead, rows, columns = event.dims
    last = len(event.dims) - 1
    place = {last: last - 1, last - 1: last}.get(event.dim, event.dim)
    return replace(event, dims=(*lead, columns, rows), dim=place)


def _as_parts(dim: Dim) -> Dim:
    """Tokens that were joined to others and cut off again are the same tokens, in the same groups.

    (Attention weights whose scores were joined to a sink's.)
    """
    parts = [None if atom.space is None else atom.space.as_part for atom in dim]
    return tuple(
        atom if part is atom.space or part is None else Atom(part.axis, part)
        for atom, part in zip(dim, parts, strict=True)
    )


def _transposed(x: TokenTensor) -> TokenTensor:
    dims = (*x.dims[:-2], x.dims[-1], x.dims[-2])
    return x.holding(x.data.transpose(-1, -2), dims)


def _outer(a: TokenTensor, b: TokenTensor) -> tuple[Dim, ...]:
    return (a.dims[-2], b.dims[-1]) if min(len(a.dims), len(b.dims)) >= 2 else ()


@rule(aten.einsum.default)
def einsum(
    step: Step, equation: str, operands: Sequence[TokenTensor], **kwargs: Any
) -> TokenTensor:
    """Each letter is one dimension; letters summed over count groups by size, once."""
    equation = spelled_out(equation.replace(" ", ""), [len(x.dims) for x in operands])
    inputs, _, output = equation.partition("->")
    letters = inputs.split(",")
    if "." in equation or "->" not in equation or any(len(set(t)) != len(t) for t in letters):
        if any(x.merged for x in operands):
            raise Lift("an einsum with an ellipsis, an implicit output or a diagonal")
        value = step(equation, operands, **kwargs)
        return TokenTensor(value, step.fresh_like(value))
    operands = [
        replace(
            x,
            dims=tuple(d if c in output else _as_parts(d) for c, d in zip(t, x.dims, strict=True)),
        )
        for x, t in zip(operands, letters, strict=True)
    ]
    dims, operands = _letters(step, letters, operands)
    keep_axes_apart(operands, dims.values())
    for letter in dims:
        if letter not in output:
            holder = next(i for i, term in enumerate(letters) if letter in term)
            at = letters[holder].index(letter)
            if any(x.merged for i, x in enumerate(operands) if i != holder):
                keep_items_apart(operands[holder], [at], *operands)
            operands[holder] = weighted(operands[holder], [at], aten.mul.Tensor)
    return TokenTensor(step(equation, operands, **kwargs), tuple(dims[c] for c in output))


def spelled_out(equation: str, ranks: list[int]) -> str:
    """The equation with a letter for every dimension that an ellipsis stands for."""
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    hidden = [rank - len(t.replace("...", "")) for t, rank in zip(terms, ranks, strict=True)]
    unused = [c for c in string.ascii_letters if c not in equation]
    widest = max((n for t, n in zip(terms, hidden, strict=True) if "..." in t), default=0)
    names = "".join(unused[:widest])
    spelled = [t.replace("...", names[widest - n :]) for t, n in zip(terms, hidden, strict=True)]
    return ",".join(spelled) + arrow + output.replace("...", names)


def _letters(
    step: Step, letters: list[str], operands: list[TokenTensor]
) -> tuple[dict[str, Dim], list[TokenTensor]]:
    """Operands in common spaces, and the dimension that each letter names."""
    order = sorted({c for term in letters for c in term})
    if any(x.merged for x in operands):
        operands = [_broadcast(x, term, order) for x, term in zip(operands, letters, strict=True)]
        terms = {x.origin: term for x, term in zip(operands, letters, strict=True)}
        origins = [x.origin for x in operands]
        operands, _ = align(step, operands)
        for i, event in enumerate(step.projections):
            if origins.count(event.operand) > 1:
                raise Lift("an einsum takes one tensor twice, which would have to be merged along")
            # Told of the operand as it is, not as it was broadcast.
            term = terms[event.operand]
            own = tuple(event.dims[order.index(c)] for c in term)
            place = term.index(order[event.dim])
            step.projections[i] = replace(event, dims=own, dim=place)
        operands = [_unbroadcast(x, term, order) for x, term in zip(operands, letters, strict=True)]
    named: dict[str, Dim] = {}
    for term, x in zip(letters, operands, strict=True):
        for c, dim in zip(term, x.dims, strict=True):
            if dim and (c not in named or (all(atom.axis.weak for atom in named[c]))):
                named[c] = dim
            named.setdefault(c, dim)
    return named, operands


def _broadcast(x: TokenTensor, term: str, order: list[str]) -> TokenTensor:
    """x with one dimension per letter in alphabetical order, of size 1 where it has none."""
    present = [c for c in order if c in term]
    data = x.data.permute([term.index(c) for c in present])
    index = tuple(slice(None) if c in term else None for c in order)
    dims = tuple(x.dims[term.index(c)] if c in term else () for c in order)
    return x.holding(data[index], dims)


def _unbroadcast(x: TokenTensor, term: str, order: list[str]) -> TokenTensor:
    absent = [i for i, c in enumerate(order) if c not in term]
    if any(x.dims[i] for i in absent):
        raise Lift("an einsum operand without the batch would have to be merged along")
    present = [c for c in order if c in term]
    data = x.data.squeeze(absent) if absent else x.data
    back = [present.index(c) for c in term]
    dims = tuple(x.dims[order.index(c)] for c in term)
    return x.holding(data.permute(back), dims)


@rule(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
def convolution(
    step: Step, x: TokenTensor, weight: TokenTensor, *args: Any, **kwargs: Any
) -> TokenTensor:
    """A convolution of width 1 is a linear layer per token; others see neighbours."""
    bound = bind(step, (x, weight, *args), kwargs)
    keep_dense(weight, args, kwargs)
    if x.merged and not (_is_width_one(bound) and not is_merged(x.dims[1])):
        raise Lift("a convolution sees neighbouring tokens")
    if x.merged:
        keep_items_apart(x, [1])
    value = step(x, weight, *args, **kwargs)
    keep = x.dims[2:] if _is_width_one(bound) else None
    batched = len(x.dims) == len(weight.dims)
    if not batched or keep is None:
        first = (x.dims[0],) if batched else ()
        fresh = step.fresh_like(step.value)
        return TokenTensor(value, (*first, *fresh[len(first) :]))
    return TokenTensor(value, (x.dims[0], step.fresh(1, step.value.shape[1]), *keep))


def _is_width_one(bound: dict[str, Any]) -> bool:
    def every(name: str, wanted: int) -> bool:
        given = bound.get(name, wanted)
        return all(v == wanted for v in ([given] if isinstance(given, int) else given))

    kernel = bound["weight"].dense_shape[2:]
    return (
        all(isinstance(k, int) and k == 1 for k in kernel)
        and every("stride", 1)
        and every("padding", 0)
    )

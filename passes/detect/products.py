"""Products that sum over a dimension, in whatever op they are spelled, seen as one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from pitome_fx.passes.aten.families import MATRICES
from pitome_fx.passes.aten.nodes import rank_of
from pitome_fx.passes.rules.contract import spelled_out

aten = torch.ops.aten


@dataclass(frozen=True)
class Factor:
    """One of the two tensors that a product multiplies.

    Attributes:
        inner: dimensions that are summed over, counted from the end.
        outer: dimensions that only this factor has, with their places in the result.
    """

    node: Node
    inner: tuple[int, ...]
    outer: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Product:
    """left · right, summed over the inner dimensions of both."""

    left: Factor
    right: Factor


def arguments(node: Node) -> dict[str, Any]:
    """Arguments of an ATen node by the names of its schema."""
    target: Any = node.target
    names = [argument.name for argument in target._schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def product_of(node: Node) -> Product | None:
    """The node as a product of two tensors, None if it is none."""
    if node.target == aten.einsum.default:
        return _einsum(node)
    if node.target == aten.linear.default:
        given = arguments(node)
        a, b = given["input"], given["weight"]
        if rank_of(a) < 2 or rank_of(b) < 2:
            return None
        return Product(Factor(a, (-1,), ((-2, -2),)), Factor(b, (-1,), ((-2, -1),)))
    if node.target not in MATRICES:
        return None
    given = arguments(node)
    a, b = (given[name] for name in MATRICES[node.target])
    if rank_of(a) < 2 or rank_of(b) < 2:
        return None
    return Product(Factor(a, (-1,), ((-2, -2),)), Factor(b, (-2,), ((-1, -1),)))


def _einsum(node: Node) -> Product | None:
    operands = arguments(node)["tensors"]
    equation = arguments(node)["equation"].replace(" ", "")
    if len(operands) != 2 or "->" not in equation:
        return None
    inputs, _, output = spelled_out(equation, [rank_of(x) for x in operands]).partition("->")
    terms = inputs.split(",")
    if any(len(set(term)) != len(term) for term in terms):
        return None
    factors = []
    for x, term, other in zip(operands, terms, terms[::-1], strict=True):
        inner = [c for c in terms[0] if c in terms[1] and c not in output]
        own = [c for c in term if c not in other and c in output]
        places = tuple((term.index(c) - len(term), output.index(c) - len(output)) for c in own)
        factors.append(Factor(x, tuple(term.index(c) - len(term) for c in inner), places))
    return Product(*factors)

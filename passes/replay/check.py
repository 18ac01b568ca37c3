"""Every label against its tensor: a wrong claim on a dimension is an error, and never an answer.

Rules say which dimensions their result has, and everything after them believes it. A claim that
does not fit the tensor ends the pass, and the model runs dense. To unmerge the operands instead
would give the right value here; but a rule that was caught by a length may be wrong as well where
lengths happen to agree, and nobody would learn of it.
"""

from __future__ import annotations

from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import Node

from pitome_fx.passes.tokens.dims import Dim, TokenTensor
from pitome_fx.passes.tokens.sizes import Size


class LabelError(Exception):
    """A token rule said of its result what the tensor belies: a bug of the library."""


def check_labels(node: Node, value: Any) -> None:
    """Compare the labels of a node's value with its tensors, present and dense. Adds no guard.

    Raises:
        LabelError: a rank or a length differs. A symbolic length is compared by its hint.
    """
    if isinstance(value, TokenTensor):
        _check(node, value, node.meta.get("val"))
    elif isinstance(value, list | tuple):
        dense = node.meta.get("val")
        parts = pytree.tree_leaves(value)
        recorded = pytree.tree_leaves(dense) if dense is not None else [None] * len(parts)
        for part, own in zip(parts, recorded, strict=True):
            if isinstance(part, TokenTensor):
                _check(node, part, own)


def _check(node: Node, x: TokenTensor, dense: Any) -> None:
    for tensor, is_present in ((x.data, True), (dense, False)):
        if tensor is None or (tensor is x.data and not is_present):
            continue
        if not isinstance(tensor, Tensor):
            raise _wrong(node, f"labels a {type(tensor).__name__} as one tensor")
        shape = tensor.shape
        if len(shape) != len(x.dims):
            raise _wrong(node, f"labels {len(x.dims)} dimensions of a tensor that has {len(shape)}")
        for d, (size, dim) in enumerate(zip(shape, x.dims, strict=True)):
            if _differs(size, dim, is_present):
                state = "merged" if x.merged and is_present else "dense"
                raise _wrong(
                    node,
                    f"labels dimension {d} of a {state} tensor of shape {tuple(shape)} with "
                    f"{_spelled(dim, is_present)}",
                )


def _differs(size: Size, dim: Dim, is_present: bool) -> bool:
    """Is a size known, and not the length that the label claims?"""
    claimed = 1
    for atom in dim:
        length = atom.length if is_present else atom.axis.size
        known = length if isinstance(length, int) else _hint(length)
        if known is None:
            return False
        claimed *= known
    found = size if isinstance(size, int) else _hint(size)
    return found is not None and found != claimed


def _hint(size: Any) -> int | None:
    """What a symbolic size was traced with, None for one that depends on data."""
    return int(size.node.hint) if size.node.has_hint() else None


def _spelled(dim: Dim, is_present: bool) -> str:
    lengths = [atom.length if is_present else atom.axis.size for atom in dim]
    return "a length of " + (" × ".join(map(str, lengths)) or "1")


def _wrong(node: Node, what: str) -> LabelError:
    # The op is named by its graph node too: several rules act on one op in a model.
    return LabelError(f"the token rule of {node.target} (node {node.name}) {what}")

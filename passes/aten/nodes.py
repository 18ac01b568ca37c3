"""What a node of a graph yields, read off its metadata."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import Node


def is_one(size: Any) -> bool:
    """Is a size the plain number 1?"""
    return isinstance(size, int) and size == 1


def is_tensor(node: Node) -> bool:
    """Does the node yield one tensor?"""
    return isinstance(node.meta.get("val"), Tensor)


def rank_of(node: Node) -> int:
    """Number of dimensions, 0 for what is no tensor."""
    return node.meta["val"].dim() if is_tensor(node) else 0


def is_float(node: Node) -> bool:
    """Does the node yield one floating-point tensor?"""
    return is_tensor(node) and node.meta["val"].is_floating_point()

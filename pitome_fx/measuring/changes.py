"""How far a model's outputs move, item by item. B is the number of items, the first dimension."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor


def float_outputs(found: Any, dense: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(place, merged, dense) of every floating-point output that holds anything."""
    others = pytree.tree_leaves(found)
    outputs, _ = pytree.tree_flatten_with_path(dense)
    for (path, b), a in zip(outputs, others, strict=True):
        if isinstance(b, Tensor) and b.is_floating_point() and b.numel():
            yield pytree.keystr(path) or "output", a, b


def rows(x: Tensor) -> Tensor:
    """Everything of one item in a row, in float64: (B, …) → (B, F); a scalar is one item."""
    return x.double().reshape(len(x) if x.dim() else 1, -1)


def relative_change(found: Tensor, dense: Tensor) -> Tensor:
    """|y − y₀| / |y₀| of each item: (B, …) → (B,)."""
    a, b = rows(found), rows(dense)
    tiny = torch.finfo(dense.dtype).tiny ** 0.5
    return (a - b).norm(dim=1) / b.norm(dim=1).clamp(min=tiny)


def cosine(found: Tensor, dense: Tensor) -> Tensor:
    """Cosine of the angle between an item's outputs: (B, …) → (B,); 1 between two zeros."""
    a, b = rows(found), rows(dense)
    equal = (a == b).all(1)
    return torch.where(equal, 1.0, torch.nn.functional.cosine_similarity(a, b, dim=1))


def are_scores(output: Tensor) -> bool:
    """Is it (B, classes), with classes to choose among?"""
    return output.dim() == 2 and output.shape[1] > 1

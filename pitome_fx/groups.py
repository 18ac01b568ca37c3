"""Groups of tokens as plain (B, N) numbers, and what the oracle computes with them."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_over_groups(rows: Tensor, groups: Tensor) -> Tensor:
    """Every token gets the mean of its group's members: (B, N, F) → (B, N, F).

    The mean of equal values is exactly that value: beside the lowest float, of which masks are
    made, the rounding of a sum would decide the softmax.
    """
    same = groups.unsqueeze(1) == groups.unsqueeze(2)
    wide = torch.promote_types(rows.dtype, torch.float32)
    weight = same.to(wide) / same.sum(-1, keepdim=True)
    if bool(rows.isfinite().all()):
        first = same.to(torch.int8).argmax(-1).unsqueeze(-1).expand_as(rows)
        one = rows.to(wide).gather(1, first)
        return (one + weight @ (rows.to(wide) - one)).to(rows.dtype)
    terms = torch.where(same.unsqueeze(-1), rows.unsqueeze(1), 0)
    return terms.sum(2) / same.sum(-1, keepdim=True)


def first_members(groups: Tensor) -> Tensor:
    """(B, N') the first token of every group."""
    numbers = torch.arange(count(groups), device=groups.device).view(1, -1, 1)
    return (groups.unsqueeze(1) == numbers).to(torch.int8).argmax(-1)


def sizes(groups: Tensor) -> Tensor:
    """(B, N') members of every group."""
    numbers = torch.arange(count(groups), device=groups.device).view(1, -1, 1)
    return (groups.unsqueeze(1) == numbers).sum(-1)


def count(groups: Tensor) -> int:
    """N', the number of groups."""
    return int(groups.max()) + 1

"""Calls of an algorithm, with whatever it asks for."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from pitome_fx import ALGORITHMS, Match, Tokens


def tokens_for(
    name: str, metric: Tensor, k: int, padding: Tensor | None = None, **more: Any
) -> Tokens:
    """Tokens of size 1; what the algorithm asks for is made of the metric (B, T, D)."""
    asked = {need: x for need, x in _all(metric).items() if need in ALGORITHMS[name].needs}
    return Tokens(metric, torch.ones(metric.shape[:2]), padding, k, **{**asked, **more})


def match(
    name: str,
    metric: Tensor,
    k: int,
    padding: Tensor | None = None,
    block: tuple[int, int] = (0, 1),
    **parameters: Any,
) -> Match:
    """The library's match on tokens of size 1, in block i of L."""
    tokens = tokens_for(name, metric, k, padding, block=block[0], blocks=block[1])
    found = ALGORITHMS[name].match(tokens, **parameters)
    assert isinstance(found, Match)
    return found


def call(
    name: str,
    metric: Tensor,
    size: Tensor,
    padding: Tensor | None,
    k: int,
    front: int,
    back: int,
    **parameters: Any,
) -> tuple[Any, ...]:
    """Arguments of the op ``match``, as ``tokens_for`` makes them."""
    needs = ALGORITHMS[name].needs
    asked = [x if need in needs else None for need, x in _all(metric).items()]
    return (metric, size, padding, name, k, front, back, 0, 1, json.dumps(parameters), *asked)


def _all(metric: Tensor) -> dict[str, Tensor]:
    wide = torch.promote_types(metric.dtype, torch.float32)
    place = torch.arange(metric.shape[1], device=metric.device).expand(metric.shape[:2])
    heads = metric.unsqueeze(1)
    return {
        "hidden": metric,
        "queries": heads,
        "keys": heads,
        "importance": (place * 12.9898).sin().to(wide).softmax(-1),
        "position": place,
    }

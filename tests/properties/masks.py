"""Attention masks and biases, as an attention of a program makes them in its forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

BUCKETS = 8

Made = Tensor | None


class Bias(nn.Module):
    """What a kind of mask needs to keep, for queries × keys of an attention."""

    causal: Tensor
    slopes: Tensor

    def __init__(
        self, kind: str, heads: int, queries: int, keys: int, streams: tuple[int, int] = (0, 0)
    ) -> None:
        super().__init__()
        self.kind, self.heads = kind, heads
        distance = torch.arange(queries)[:, None] - torch.arange(keys)
        if kind.startswith("learned"):
            self.bias = nn.Parameter(torch.empty(heads, queries, keys))
            self.along_tokens = {"bias": ((1, streams[0]), (2, streams[1]))}
        if kind == "table":
            self.table = nn.Parameter(torch.empty(queries + keys, heads))
            self.register_buffer("index", distance + keys)
        if kind == "buckets":
            self.table = nn.Parameter(torch.empty(2 * BUCKETS, heads))
        if kind == "causal-buffer":
            self.register_buffer("causal", distance >= 0)
        if kind == "alibi":
            slopes = 0.5 ** torch.arange(1, heads + 1)
            self.register_buffer("slopes", -slopes[:, None, None] * distance.abs())

    def forward(self, q: Tensor, k: Tensor, seen: Tensor | None, additive: Tensor | None) -> Made:
        """q (B, H, N, D); seen (B, M) bool or None; additive (B, 1, 1, M), if that was given."""
        if self.kind == "given" and additive is not None:
            return additive
        if self.kind in IN_GRAPH:
            return IN_GRAPH[self.kind](self, q, k)
        return MASKS[self.kind](self, q, seen)


def _row(seen: Tensor) -> Tensor:
    return seen[:, None, None, :]


def _additive(seen: Tensor, like: Tensor, lowest: float | None = None) -> Tensor:
    lowest = torch.finfo(like.dtype).min if lowest is None else lowest
    return torch.zeros_like(_row(seen), dtype=like.dtype).masked_fill(~_row(seen), lowest)


def _hugging_face(seen: Tensor, like: Tensor) -> Tensor:
    return (1.0 - _row(seen).to(like.dtype)) * torch.finfo(like.dtype).min


def _padding(make: Callable[[Any, Tensor, Tensor], Made]) -> Callable[..., Made]:
    """A mask of padding; none where the program has no padding."""
    return lambda self, q, seen: None if seen is None else make(self, q, seen)


def _tril(self: Any, q: Tensor, seen: Tensor | None) -> Tensor:
    tokens = q.shape[-2]
    return torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril()


def _triu(self: Any, q: Tensor, seen: Tensor | None) -> Tensor:
    tokens = q.shape[-2]
    return torch.full((tokens, tokens), -torch.inf, dtype=q.dtype, device=q.device).triu(1)


def _learned_with_padding(self: Any, q: Tensor, seen: Tensor | None) -> Tensor:
    return self.bias if seen is None else self.bias + _additive(seen, q)


def _from_table(self: Any, q: Tensor, seen: Tensor | None) -> Tensor:
    return self.table[self.index].permute(2, 0, 1)


def _distances(q: Tensor, k: Tensor) -> Tensor:
    """(N, M), from sizes alone."""
    places = [torch.arange(x.shape[-2], device=q.device) for x in (q, k)]
    return places[0][:, None] - places[1]


def _alibi_in_graph(self: Any, q: Tensor, k: Tensor) -> Tensor:
    heads = torch.arange(1, self.heads + 1, device=q.device, dtype=q.dtype)
    slopes = torch.pow(2.0, -heads).view(-1, 1, 1)
    return -slopes * _distances(q, k).abs().to(q.dtype)


def _buckets(self: Any, q: Tensor, k: Tensor) -> Tensor:
    """As T5: near keys have buckets of their own, those farther away share them by logarithm."""
    distance = _distances(q, k)
    before = (distance < 0).to(torch.long) * BUCKETS
    far, near = distance.abs(), BUCKETS // 2
    shared = near + (far.clamp(min=1) / near).log().mul(near / 3).to(torch.long)
    bucket = before + torch.where(far < near, far, shared.clamp(max=BUCKETS - 1))
    return nn.functional.embedding(bucket, self.table).permute(2, 0, 1).unsqueeze(0)


def _square(seen: Tensor) -> Tensor:
    return seen[:, None, :, None] & seen[:, None, None, :]


MASKS: dict[str, Callable[..., Made]] = {
    "none": lambda self, q, seen: None,
    "bool": _padding(lambda self, q, seen: _row(seen)),
    "bool-expanded": _padding(lambda self, q, seen: _row(seen).expand(-1, -1, seen.shape[1], -1)),
    "min": _padding(lambda self, q, seen: _additive(seen, q)),
    "min-product": _padding(lambda self, q, seen: _hugging_face(seen, q)),
    "given": _padding(lambda self, q, seen: _additive(seen, q)),
    "inf": _padding(lambda self, q, seen: _additive(seen, q, -torch.inf)),
    "square": _padding(lambda self, q, seen: _square(seen)),
    "learned": lambda self, q, seen: self.bias,
    "learned-padding": _learned_with_padding,
    "table": _from_table,
    "alibi": lambda self, q, seen: self.slopes.to(q.dtype),
    "causal-tril": _tril,
    "causal-triu": _triu,
    "causal-buffer": lambda self, q, seen: self.causal,
    "causal-flag": _tril,
}
"""(module, q, seen (B, M) or None) → a mask that broadcasts to (B, H, N, M), or None."""

IN_GRAPH: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "alibi-graph": _alibi_in_graph,
    "buckets": _buckets,
}
"""(module, q, k) → a bias on positions, computed from sizes alone."""

OF_PADDING = ("bool", "bool-expanded", "min", "min-product", "given", "inf", "learned-padding")
CAUSAL = ("causal-tril", "causal-triu", "causal-buffer", "causal-flag")
FREE = ("learned", "learned", "table", "alibi", "alibi-graph", "buckets")
"""Biases on positions."""

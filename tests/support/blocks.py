"""A transformer written by hand, its attention spelled in many ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.models import DEPTH, Builder, Case, randomised

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(q, k, v (B, N, H, D), bias or mask) → (B, N, H, D)."""


def sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """PyTorch's fused op."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2)


def matmul(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q·kᵀ/√d + bias)·v."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if bias is not None and bias.dtype == torch.bool:
        scores = scores.masked_fill(~bias, -torch.inf)
    elif bias is not None:
        scores = scores + bias
    return (scores.softmax(-1) @ v).transpose(1, 2)


def scaled_keys(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """The scale on the keys, a division, and the mask through torch.where."""
    q, v = q.transpose(1, 2), v.transpose(1, 2)
    scores = torch.matmul(q, k.permute(0, 2, 3, 1)) / q.shape[-1] ** 0.5
    if bias is not None and bias.dtype == torch.bool:
        scores = torch.where(bias, scores, torch.finfo(scores.dtype).min)
    elif bias is not None:
        scores = bias + scores
    return torch.matmul(torch.softmax(scores, dim=-1), v).permute(0, 2, 1, 3)


def einsum(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Both products as einsums on (B, N, H, D)."""
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5
    if bias is not None and bias.dtype == torch.bool:
        scores = scores.masked_fill(~bias, -torch.inf)
    elif bias is not None:
        scores = scores + bias
    return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v)


def bmm(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Heads folded into the batch."""
    batch, tokens, heads, width = q.shape
    q, k, v = (x.transpose(1, 2).reshape(batch * heads, tokens, width) for x in (q, k, v))
    scores = torch.bmm(q * width**-0.5, k.transpose(1, 2))
    if bias is not None:
        bias = bias if bias.dtype != torch.bool else torch.where(bias, 0.0, -torch.inf).to(q)
        scores = scores + bias.expand(batch, heads, tokens, tokens).flatten(0, 1)
    out = torch.bmm(scores.softmax(-1), v)
    return out.view(batch, heads, tokens, width).transpose(1, 2)


SPELLINGS: dict[str, Attention] = {
    "sdpa": sdpa,
    "matmul": matmul,
    "scaled-keys": scaled_keys,
    "einsum": einsum,
    "bmm": bmm,
}


class Block(nn.Module):
    """Attention and MLP, pre-norm or post-norm."""

    def __init__(
        self, width: int, heads: int, attention: Attention, post_norm: bool = False
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.heads = heads
        self.attention = attention
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (B, N, C)."""
        if self.post_norm:
            x = self.norm1(x + self._attend(x, bias))
            return self.norm2(x + self.mlp(x))
        x = x + self._attend(self.norm1(x), bias)
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.proj(self.attention(q, k, v, bias).flatten(2))

    def mlp(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Transformer(nn.Module):
    """Blocks on tokens (B, N, C), with a class token in front and a bias or mask for all blocks.

    Args:
        spelling: name of an attention spelling.
        bias: learn a bias on positions (H, N, N).
        pool: ``"cls"``, ``"mean"`` over the other tokens, or ``"none"`` for all tokens.
    """

    def __init__(
        self,
        spelling: str = "sdpa",
        bias: bool = False,
        pool: str = "cls",
        tokens: int = 24,
        width: int = 24,
        heads: int = 3,
        depth: int = DEPTH,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.bias = nn.Parameter(torch.randn(heads, tokens + 1, tokens + 1)) if bias else None
        attention = SPELLINGS[spelling]
        self.blocks = nn.ModuleList(Block(width, heads, attention, post_norm) for _ in range(depth))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, N, C); mask (…, N + 1, N + 1) bool or additive."""
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = block(x, self.bias if mask is None else mask)
        if self.pool == "none":
            return self.head(x)
        return self.head(x[:, 0] if self.pool == "cls" else x[:, 1:].mean(1))


def by_hand(spelling: str = "sdpa", bias: bool = False, pool: str = "cls", **shape: Any) -> Case:
    """A ``Transformer`` and a batch of two."""
    model = randomised(Transformer(spelling, bias, pool, **shape))
    tokens = shape.get("tokens", 24)
    x = torch.randn(2, tokens, shape.get("width", 24))
    return Case(model, (x,), merges=shape.get("depth", DEPTH), tokens=tokens)


def in_two_graphs() -> Case:
    """Two transformers, a graph break between them; both have a block that may merge."""
    first, second = by_hand(pool="none", depth=1), by_hand(depth=1)

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.widen, self.second = first.model, nn.Linear(5, 24), second.model

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            torch._dynamo.graph_break()
            return self.second(self.widen(x))

    return Case(Broken().eval(), first.args)


def _builder(spelling: str, bias: bool, pool: str) -> Builder:
    return lambda: by_hand(spelling, bias, pool)


BY_HAND: dict[str, Builder] = {
    **{name: _builder(name, False, "cls") for name in SPELLINGS},
    **{f"{name}-bias": _builder(name, True, "mean") for name in SPELLINGS},
    "sdpa-all-tokens": _builder("sdpa", False, "none"),
}

"""Attention of a program in many spellings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.properties import description as d
from tests.properties import spellings
from tests.properties.masks import OF_PADDING, Bias

Padding = tuple[Tensor | None, Tensor | None]
"""Which tokens are seen (B, T), and what is added to scores (B, 1, 1, T) if that was given."""

Spelling = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(q (B, H, N, D), k and v (B, H, M, D), mask) → (B, H, N, D)."""


def _masked(scores: Tensor, mask: Tensor | tuple[Tensor, ...] | None) -> Tensor:
    if mask is None:
        return scores
    if isinstance(mask, tuple):
        return _masked(_masked(scores, mask[0]), mask[1])
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, mask)


def matmul(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return _masked(scores, mask).softmax(-1) @ v


def where(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """A scale on the keys, and a bool mask by torch.where with the lowest float."""
    scores = torch.matmul(q, k.mT / q.shape[-1] ** 0.5)
    if mask is not None and mask.dtype == torch.bool:
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = mask + scores
    return torch.matmul(F.softmax(scores, dim=-1), v)


def einsum(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhnm,bmhd->bhnd", _masked(scores, mask).softmax(-1), v)


def bmm(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Heads folded into the batch."""
    batch, heads, tokens, width = q.shape
    scores = torch.bmm(q.flatten(0, 1) * width**-0.5, k.flatten(0, 1).transpose(1, 2))
    if mask is not None:
        scores = _masked(scores.unflatten(0, (batch, heads)), mask).flatten(0, 1)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(batch, heads, tokens, width)


def baddbmm(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The mask as the first operand of baddbmm."""
    batch, heads, tokens, width = q.shape
    shape = (batch, heads, tokens, k.shape[2])
    bias = q.new_zeros(()) if mask is None else mask
    if bias.dtype == torch.bool:
        bias = torch.where(bias, 0.0, -torch.inf).to(q.dtype)
    bias = bias.expand(shape).reshape(batch * heads, tokens, -1)
    scores = torch.baddbmm(bias, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=width**-0.5)
    return torch.bmm(scores.softmax(2), v.flatten(0, 1)).view(batch, heads, tokens, width)


def wide(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scores shifted by their largest before the softmax, the scale as its own multiplication."""
    scores = torch.mul(torch.matmul(q, k.transpose(2, 3)), q.shape[-1] ** -0.5)
    scores = _masked(scores, mask)
    return torch.matmul(nn.functional.dropout(scores.softmax(-1), 0.1, training=False), v)


def talking(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Heads mix their weights after the softmax."""
    weights = _masked(q @ k.mT * q.shape[-1] ** -0.5, mask).softmax(-1)
    mixed = weights + 0.5 * weights.roll(1, 1)
    return mixed @ v


def linear(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """φ(q)·(φ(k)ᵀ·v), normalised; it knows no mask."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    total = q @ k.sum(-2, keepdim=True).transpose(-1, -2)
    return q @ (k.transpose(-1, -2) @ v) / total


SPELLINGS: dict[str, Spelling] = {
    "sdpa": sdpa,
    "matmul": matmul,
    "where": where,
    "einsum": einsum,
    "bmm": bmm,
    "baddbmm": baddbmm,
    "wide": wide,
    "talking": talking,
    "linear": linear,
}


UNUSUAL = {
    name: f for name, f in (spellings.LINEAR | spellings.SPELLINGS).items() if name not in SPELLINGS
}
"""Attention by other functions than a plain softmax; they take a number per head too."""

ONE_BY_ONE = ("matmul", "einsum", "wide", "talking")
"""Spellings that add two biases one after the other; the others add their sum."""


def _repeated(x: Tensor, times: int) -> Tensor:
    return x.repeat_interleave(times, 1)


def _expanded(x: Tensor, times: int) -> Tensor:
    return x.unsqueeze(2).expand(-1, -1, times, -1, -1).flatten(1, 2)


SHARED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "none": lambda x, times: x,
    "repeat": _repeated,
    "expand": _expanded,
    "flag": _repeated,
}
"""How keys and values (B, G, M, D) of G groups become those of all heads; ``"flag"``: in SDPA."""


def hides_padding(spec: d.Attention) -> bool:
    """Is the attention told which tokens are padding, where the program has any?"""
    if spec.spelling == "mha":
        return spec.mask.startswith(("bool", "min", "given"))
    return spec.mask in OF_PADDING and spec.spelling != "linear"


class Attention(nn.Module):
    """Projections around one spelling, in the layout of the program."""

    def __init__(self, spec: d.Attention, program: d.Program, stream: int) -> None:
        super().__init__()
        own = program.length(stream)
        self.cross = spec.cross and program.other > 0
        keys = program.length(1 - stream) if self.cross else own
        self.spec, self.heads, self.dim = spec, program.heads, program.dim
        self.front = program.prefix if stream == 0 else 0
        width = program.width
        # Padding masks speak of the first stream's tokens.
        self.sees_padding = (stream == 1) == self.cross
        kind = spec.mask
        if self.cross and kind.startswith("causal"):
            kind = "none"
        self.bias = Bias(kind, program.heads, own, keys, (stream, stream ^ self.cross))
        self.second = Bias(spec.second, program.heads, own, keys, (stream, stream ^ self.cross))
        if spec.spelling == "mha":
            self.mha = nn.MultiheadAttention(width, self.heads, batch_first=self.dim == 1)
            return
        few = self.heads // 2 if self.heads % 2 == 0 else 1
        self.groups = self.heads if spec.shared == "none" else few
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * self.groups * program.head_dim)
        self.proj = nn.Linear(width, width)
        if spec.spelling in UNUSUAL:
            self.sink = nn.Parameter(torch.empty(self.heads))
        if spec.qk_norm:
            self.q_norm, self.k_norm = (nn.LayerNorm(program.head_dim) for _ in range(2))

    def forward(self, x: Tensor, other: Tensor, padding: Padding, taps: list[Tensor]) -> Tensor:
        """x and other in the program's layout; padding of the first stream."""
        source = other if self.cross else x
        seen, additive = padding if self.sees_padding else (None, None)
        if self.spec.spelling == "mha":
            return self._mha(x, source, seen, taps)
        q = self._split(self.q(x), self.heads)
        k, v = (self._split(y, self.groups) for y in self.kv(source).chunk(2, -1))
        if self.spec.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.spec.rope != "none" and not self.cross:
            q, k = (rotated(y, self.front, self.spec.rope) for y in (q, k))
        out = self._attend(q, k, v, self._biases(q, k, seen, additive))
        out = out.permute(*((0, 2) if self.dim == 1 else (2, 0)), 1, 3)
        return self.proj(out.flatten(2))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
        """By the spelling of the description."""
        spelling, times = self.spec.spelling, self.heads // self.groups
        causal = self.bias.kind == "causal-flag" and self.second.kind == "none"
        in_sdpa = self.spec.shared == "flag" and spelling == "sdpa"
        if not in_sdpa:
            k, v = (SHARED[self.spec.shared](y, times) for y in (k, v))
        if spelling == "sdpa" and causal:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=in_sdpa)
        if spelling in UNUSUAL:
            return UNUSUAL[spelling](q, k, v, mask, self.sink)
        if in_sdpa:
            return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
        return SPELLINGS[spelling](q, k, v, mask)

    def _biases(self, q: Tensor, k: Tensor, seen: Tensor | None, additive: Tensor | None) -> Any:
        """What is added to the scores: nothing, one bias, their sum, or both in order."""
        found = self.bias(q, k, seen, additive), self.second(q, k, seen, additive)
        first, second = found
        if first is None or second is None:
            return second if first is None else first
        if self.spec.spelling in ONE_BY_ONE:
            return first, second
        first, second = (
            torch.where(x, 0.0, -torch.inf).to(q.dtype) if x.dtype == torch.bool else x
            for x in (first, second)
        )
        return first + second

    def _split(self, x: Tensor, heads: int) -> Tensor:
        """(B, N, C) or (N, B, C) → (B, H, N, D)."""
        x = x.unflatten(-1, (heads, -1))
        return x.permute(*((0, 2, 1, 3) if self.dim == 1 else (1, 2, 0, 3)))

    def _mha(self, x: Tensor, source: Tensor, seen: Tensor | None, taps: list[Tensor]) -> Tensor:
        kind = self.bias.kind
        padding = None if seen is None or not hides_padding(self.spec) else ~seen
        mask = None
        if kind.startswith("causal"):
            tokens = x.shape[self.dim]
            mask = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
        elif kind == "learned":
            mask = self.bias.bias.mean(0)
        needed = self.spec.weights
        out, weights = self.mha(
            x, source, source, key_padding_mask=padding, attn_mask=mask, need_weights=needed
        )
        if needed:
            taps.append(weights)
        return out


def rotated(x: Tensor, front: int, kind: str) -> Tensor:
    """x (B, H, N, D) rotated by position, but for its first ``front`` tokens."""
    special, rest = x[:, :, :front], x[:, :, front:]
    half = x.shape[-1] // 2
    wide = torch.promote_types(x.dtype, torch.float32)
    place = torch.arange(rest.shape[2], dtype=wide, device=x.device)
    channel = torch.arange(half, dtype=wide, device=x.device)
    angle = place[:, None] * 100.0 ** -(channel / half)
    if kind == "complex":
        turn = torch.polar(torch.ones_like(angle), angle)
        pairs = torch.view_as_complex(rest.to(wide).unflatten(-1, (half, 2)).contiguous())
        turned = torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)
    else:
        angle = torch.cat([angle] * 2, -1)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b = rest.chunk(2, -1)
        turned = rest * cos + torch.cat([-b, a], -1) * sin
    return torch.cat([special, turned], 2) if front else turned

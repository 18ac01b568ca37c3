"""Frames and views: tokens (B, S, N, C), the frames folded into the batch, into the tokens, or not.

Frame attention sees the tokens of one frame, (B·S, N, C), global attention those of all frames,
(B, S·N, C), and models alternate between them (VGGT, DUSt3R's heirs, video transformers).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.models import Case, randomised
from tests.zoo.entry import Entry, fixed

FAMILY = "Frames and views"
N, C, H = 12, 24, 3


class Block(nn.Module):
    """Pre-norm, on tokens (…, N, C), with tables for queries and keys and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(C), nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.mlp = nn.Sequential(nn.LayerNorm(C), nn.Linear(C, 48), nn.GELU(), nn.Linear(48, C))

    def forward(self, x: Tensor, table: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        parts = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (H, -1)).transpose(-3, -2) for part in parts)
        if table is not None:
            q, k = q * table, k * table
        out = F.scaled_dot_product_attention(q, k, v, mask).transpose(-3, -2).flatten(-2)
        x = x + self.proj(out)
        return x + self.mlp(x)


class Spelled(Block):
    """The same with its softmax written out."""

    def forward(self, x: Tensor, table: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        parts = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (H, -1)).transpose(-3, -2) for part in parts)
        weights = (q @ k.mT / 8**0.5).softmax(-1)
        x = x + self.proj((weights @ v).transpose(-3, -2).flatten(-2))
        return x + self.mlp(x)


class Frames(nn.Module):
    """Four layers, run by ``run(model, *inputs)`` on S frames."""

    def __init__(self, run: Callable[..., Tensor], frames: int, block: type[Block]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(block() for _ in range(4))
        self.patches = nn.Conv2d(3, C, 4, 4)
        self.special = nn.Parameter(torch.randn(1, 2, 3, C))
        self.table = nn.Parameter(torch.randn(N, C // H))
        self.of_frame = nn.Parameter(torch.randn(frames, 1, C))
        self.of_token = nn.Parameter(torch.randn(frames * N, C))
        self.bias = nn.Parameter(torch.randn(H, frames * N, frames * N))
        self.head = nn.Linear(C, 5)
        self.frames, self.run = frames, run

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.head(self.run(self, *inputs))


def alternating(m: Frames, x: Tensor) -> Tensor:
    b, s, n, c = x.shape
    for i, layer in enumerate(m.layers):
        x = layer(x.view(b, s * n, c) if i % 2 else x.view(b * s, n, c)).view(b, s, n, c)
    return x


def special_tokens(m: Frames, images: Tensor) -> Tensor:
    """Camera and registers of the first frame and of the others (VGGT); reads the cameras."""
    b, s = images.shape[:2]
    x = m.patches(images.flatten(0, 1)).flatten(2).mT
    first = m.special[:, :1].expand(b, 1, -1, -1)
    others = m.special[:, 1:].expand(b, s - 1, -1, -1)
    x = torch.cat([torch.cat([first, others], 1).flatten(0, 1), x], 1)
    x = alternating(m, x.view(b, s, -1, C))
    return torch.cat([x[:, :, 0], x[:, :, 3:].mean(2)], 1)


def in_batch(m: Frames, x: Tensor) -> Tensor:
    y = x.flatten(0, 1)
    for layer in m.layers:
        y = layer(y)
    return y.unflatten(0, x.shape[:2]).mean(2)


def in_tokens(m: Frames, x: Tensor) -> Tensor:
    y = x.flatten(1, 2)
    for layer in m.layers:
        y = layer(y)
    return y.unflatten(1, x.shape[1:3]).mean(2)


def in_neither(m: Frames, x: Tensor) -> Tensor:
    """Attention on (B, S, H, N, D)."""
    for layer in m.layers:
        x = layer(x)
    return x


def global_first(m: Frames, x: Tensor) -> Tensor:
    b, s, n, c = x.shape
    for i, layer in enumerate(m.layers):
        x = layer(x.view(b * s, n, c) if i % 2 else x.view(b, s * n, c)).view(b, s, n, c)
    return x.mean((1, 2))


def given_folded(m: Frames, x: Tensor) -> Tensor:
    """Tokens (B·S, N, C) come in, and only the model knows how many are frames."""
    for i, layer in enumerate(m.layers):
        x = layer(x.view(-1, m.frames * N, C)).view(-1, N, C) if i % 2 else layer(x)
    return x


def over_time(m: Frames, x: Tensor) -> Tensor:
    """Each token attends to itself in other frames, (B·N, S, C), between frame attention."""
    b, s, n, c = x.shape
    x = m.layers[0](x.view(b * s, n, c)).view(b, s, n, c)
    x = m.layers[1](x.transpose(1, 2).reshape(b * n, s, c)).view(b, n, s, c).transpose(1, 2)
    return m.layers[2](x.reshape(b * s, n, c)).view(b, s, n, c)


def frames_first(m: Frames, x: Tensor) -> Tensor:
    """Folded as (S·B, N, C), then as (B, N·S, C)."""
    b, s, n, c = x.shape
    x = m.layers[1](m.layers[0](x.transpose(0, 1).reshape(s * b, n, c)))
    x = x.view(s, b, n, c).permute(1, 2, 0, 3).reshape(b, n * s, c)
    return m.layers[2](x).view(b, n, s, c)


def one_table(m: Frames, x: Tensor) -> Tensor:
    """A rotary table, once for every frame and repeated for all."""
    b, s, n, c = x.shape
    for i, layer in enumerate(m.layers):
        shape, table = ((b, s * n, c), m.table.repeat(s, 1)) if i % 2 else ((b * s, n, c), m.table)
        x = layer(x.view(shape), table).view(b, s, n, c)
    return x


def positions(m: Frames, x: Tensor) -> Tensor:
    """Of the frame, and of the token among those of all frames, added between blocks."""
    b, s, n, c = x.shape
    x = m.layers[0](x.view(b * s, n, c)).view(b, s, n, c) + m.of_frame
    x = m.layers[1](x.view(b, s * n, c) + m.of_token).view(b, s, n, c)
    return m.layers[2](x.view(b * s, n, c)).view(b, s, n, c).mean(2)


def padded(m: Frames, x: Tensor, real: Tensor) -> Tensor:
    """A mask (B, S, N) of real tokens, folded with them."""
    b, s, n, c = x.shape
    for i, layer in enumerate(m.layers):
        shape, batch = ((b, s * n, c), b) if i % 2 else ((b * s, n, c), b * s)
        x = layer(x.view(shape), None, real.view(batch, 1, 1, -1)).view(b, s, n, c)
    return x


def biased(m: Frames, x: Tensor) -> Tensor:
    """A learned bias between all tokens of all frames."""
    b, s, n, c = x.shape
    x = m.layers[0](x.view(b * s, n, c))
    return m.layers[1](x.view(b, s * n, c), None, m.bias).view(b, s, n, c)


def asks_all(m: Frames, x: Tensor) -> Tensor:
    """The queries of each frame by themselves, the keys of all frames."""
    x = m.layers[1](m.layers[0](x))
    ask, whole = m.layers[2], x.flatten(1, 2).unsqueeze(1)
    q = ask.qkv(ask.norm(x))[..., :C].unflatten(-1, (H, -1)).transpose(-3, -2)
    k, v = (
        part.unflatten(-1, (H, -1)).transpose(-3, -2)
        for part in ask.qkv(ask.norm(whole)).chunk(3, -1)[1:]
    )
    x = x + F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2)
    return m.layers[3](x)


def tokens(batch: int, frames: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, frames, N, C),)


def folded(batch: int, frames: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch * frames, N, C),)


def images(batch: int, frames: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, frames, 3, 16, 12),)


def with_mask(batch: int, frames: int) -> tuple[Tensor, ...]:
    real = torch.ones(batch, frames, N, dtype=torch.bool)
    real[..., 9:] = False
    real[0, 0, 7:] = False
    return (*tokens(batch, frames), real)


def case(
    run: Callable[..., Tensor],
    inputs: Callable[[int, int], tuple[Tensor, ...]] = tokens,
    batch: int = 2,
    frames: int = 3,
    block: type[Block] = Block,
) -> Case:
    """The model of a function above and a call of it."""
    return Case(randomised(Frames(run, frames, block)), inputs(batch, frames))


TOGETHER = "its tokens are those of several items together"
LIFTED = "its keys and its residual stream are merged differently"
CASES: dict[str, tuple[Callable[[], Case], str]] = {
    "alternating": (lambda: case(alternating), f"2 of 4: {TOGETHER}"),
    "one-frame": (lambda: case(alternating, frames=1), "4 of 4"),
    "one-item": (lambda: case(alternating, batch=1), f"2 of 4: {TOGETHER}"),
    "one-frame-of-one-item": (lambda: case(alternating, batch=1, frames=1), "4 of 4"),
    "spelled": (lambda: case(alternating, block=Spelled), f"2 of 4: {LIFTED}"),
    "special-tokens": (lambda: case(special_tokens, images), f"2 of 4: {TOGETHER}"),
    "special-tokens-of-one-frame": (lambda: case(special_tokens, images, frames=1), "4 of 4"),
    "in-batch": (lambda: case(in_batch), "4 of 4"),
    "in-tokens": (lambda: case(in_tokens), "4 of 4"),
    "in-neither": (lambda: case(in_neither), "4 of 4"),
    "global-first": (lambda: case(global_first), f"3 of 4: {TOGETHER}"),
    "given-folded": (lambda: case(given_folded, folded), "4 of 4"),
    "over-time": (lambda: case(over_time), "2 of 3: too few tokens"),
    "over-time-of-one-frame": (lambda: case(over_time, frames=1), "2 of 3: too few tokens"),
    "frames-first": (lambda: case(frames_first), f"2 of 3: {TOGETHER}"),
    "one-table": (lambda: case(one_table), f"2 of 4: {TOGETHER}"),
    "positions": (lambda: case(positions), f"2 of 3: {TOGETHER}"),
    "padded": (lambda: case(padded, with_mask), f"2 of 4: {TOGETHER}"),
    "biased": (lambda: case(biased), f"1 of 2: {LIFTED}"),
    "asks-all": (lambda: case(asks_all), "3 of 4: cross-attention"),
}
"""Name → the model, and what the pass says of it where every merge pays."""

IN_ZOO = ("alternating", "one-frame", "special-tokens", "one-table", "padded", "over-time")
BY_DEFAULT = {"one-frame": "3 of 4: too few tokens"}
"""What else the pass says where only merges of enough tokens are made, as in the zoo."""


def _entry(name: str) -> Entry:
    build, verdict = CASES[name]
    entry = Entry(FAMILY, f"frames-{name}", build, BY_DEFAULT.get(name, verdict))
    return entry if name == "special-tokens" else fixed(entry)


ENTRIES = [_entry(name) for name in IN_ZOO]

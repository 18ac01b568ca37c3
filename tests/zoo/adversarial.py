"""Models on which a guess by size goes wrong: who is a token of which stream?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.blocks import SPELLINGS, Block
from tests.support.models import Case, images, randomised
from tests.zoo.entry import Entry, fixed

SIZES, STREAMS = "Sizes that coincide", "Streams that could be taken for one"


class Plain(nn.Module):
    """Blocks on tokens as they come, all tokens returned."""

    def __init__(self, width: int = 24, heads: int = 3, depth: int = 3) -> None:
        super().__init__()
        blocks = (Block(width, heads, SPELLINGS["sdpa"]) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


def plain(batch: int, tokens: int, width: int, heads: int = 3) -> Case:
    return Case(randomised(Plain(width, heads)), (torch.randn(batch, tokens, width),))


class Pictures(nn.Module):
    """Patches of RGB images, then blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 8, 8)
        self.body = Plain()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.patches(x).flatten(2).transpose(1, 2)).mean(1)


class Regridded(nn.Module):
    """Blocks, a convolution on the tokens as a grid, and blocks on as many other tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Plain(depth=2), Plain(depth=2)
        self.conv = nn.Conv2d(24, 24, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.first(x).transpose(1, 2).unflatten(2, (4, 4))
        return self.second(self.conv(grid).flatten(2).transpose(1, 2))


class Attend(nn.Module):
    """x + attention of x to ``source(x, other)``, then an MLP."""

    def __init__(self, source: Callable[[Tensor, Tensor], Tensor] = lambda x, other: other) -> None:
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(24, 24), nn.Linear(24, 48), nn.Linear(24, 24)
        self.norm = nn.LayerNorm(24)
        self.mlp = nn.Sequential(nn.Linear(24, 96), nn.GELU(), nn.Linear(96, 24))
        self.source = source

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        h = self.norm(x)
        q = self.q(h).unflatten(-1, (3, 8)).transpose(1, 2)
        k, v = self.kv(self.source(h, other)).unflatten(-1, (6, 8)).transpose(1, 2).chunk(2, 1)
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class TwoStreams(nn.Module):
    """Each stream attends to itself, and then both to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.ModuleList(Attend() for _ in range(4))
        self.cross = nn.ModuleList(Attend() for _ in range(4))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        for i in (0, 2):
            a, b = self.own[i](a, a), self.own[i + 1](b, b)
            a, b = self.cross[i](a, b), self.cross[i + 1](b, a)
        return a, b


class Joint(nn.Module):
    """Two streams that attend as one sequence and go on apart (MMDiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(24, 72) for _ in range(2))
        self.mlp = nn.ModuleList(nn.Linear(24, 24) for _ in range(2))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(2):
            qkv = torch.cat([self.qkv[0](a), self.qkv[1](b)], 1)
            q, k, v = qkv.unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
            out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            a, b = a + out[:, : a.shape[1]], b + out[:, a.shape[1] :]
            a, b = a + self.mlp[0](a), b + self.mlp[1](b)
        return a, b


class Elsewhere(nn.Module):
    """Layers whose keys are the stream's own tokens, but moved."""

    def __init__(self, source: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Attend(source) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, x)
        return x


def tokens(count: int = 16, batch: int = 2) -> Tensor:
    return torch.randn(batch, count, 24)


def elsewhere(source: Callable[[Tensor], Tensor]) -> Case:
    return Case(randomised(Elsewhere(lambda h, x: source(h))), (tokens(),))


ENTRIES = [
    Entry(SIZES, "batch-is-tokens", partial(plain, 16, 16, 24), "3 of 3"),
    Entry(SIZES, "tokens-are-channels", partial(plain, 2, 24, 24), "3 of 3"),
    Entry(SIZES, "tokens-are-heads", partial(plain, 2, 12, 24, 12), "3 of 3"),
    Entry(SIZES, "tokens-are-head-channels", partial(plain, 2, 16, 48), "3 of 3"),
    Entry(SIZES, "batch-tokens-channels-alike", partial(plain, 24, 24, 24), "3 of 3"),
    fixed(
        Entry(SIZES, "tokens-are-a-later-grid", lambda: Case(Regridded(), (tokens(),)), "4 of 4")
    ),
    Entry(SIZES, "three-rgb-images", lambda: Case(Pictures(), (images(32, 3),)), "3 of 3"),
    Entry(
        STREAMS,
        "two-streams",
        lambda: Case(randomised(TwoStreams()), (tokens(), tokens())),
        "4 of 8: cross-attention",
    ),
    Entry(
        STREAMS,
        "joint-streams",
        lambda: Case(randomised(Joint()), (tokens(), tokens())),
        "0 of 2: no residual connection carries these tokens past the attention",
    ),
    Entry(
        STREAMS, "rolled-keys", lambda: elsewhere(lambda h: h.roll(1, 1)), "0 of 2: cross-attention"
    ),
    Entry(
        STREAMS, "flipped-keys", lambda: elsewhere(lambda h: h.flip(1)), "0 of 2: cross-attention"
    ),
    fixed(
        Entry(
            STREAMS,
            "shuffled-keys",
            lambda: elsewhere(lambda h: h[:, torch.arange(15, -1, -1)]),
            "0 of 2: cross-attention",
        )
    ),
    Entry(
        STREAMS,
        "keys-of-another-item",
        lambda: elsewhere(lambda h: h.flip(0)),
        "0 of 2: cross-attention",
    ),
]

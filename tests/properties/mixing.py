"""What else acts on the token axis: ops the pass has rules for, and *alien* ones it must lift."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.properties import several


class Mix(nn.Module):
    """One op on the token axis, shape in = shape out.

    Attributes:
        t: the token dimension of x (B, N, C) or (N, B, C).
    """

    def __init__(self, kind: str, tokens: int, width: int, t: int) -> None:
        super().__init__()
        self.kind, self.t, self.tokens = kind, t, tokens
        shapes = {
            "conv1d": (width, width, 3),
            "grid": (width, 1, 3, 3),
            "linear": (tokens, tokens),
            "einsum": (tokens, tokens),
            "layer-norm": (tokens, width),
            "index_add": (1, 1, width),
            "where": (1, 1, width),
        }
        if kind in shapes:
            self.weight = nn.Parameter(torch.empty(shapes[kind]))
        order = torch.randperm(tokens)
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> Tensor:
        return KINDS[self.kind](self, x)

    def channels_first(self, x: Tensor) -> Tensor:
        """(B, C, N)."""
        return x.transpose(1, 2) if self.t == 1 else x.permute(1, 2, 0)

    def tokens_back(self, x: Tensor) -> Tensor:
        """The layout of the program of (B, C, N)."""
        return x.transpose(1, 2) if self.t == 1 else x.permute(2, 0, 1)

    def cut(self, x: Tensor, start: int | None, stop: int | None, step: int = 1) -> Tensor:
        """x[:, start:stop:step] along the tokens."""
        index = slice(start, stop, step)
        return x[:, index] if self.t == 1 else x[index]


def grid_of(tokens: int) -> tuple[int, int]:
    """The most square grid that holds all tokens."""
    side = next(h for h in range(int(tokens**0.5), 0, -1) if tokens % h == 0)
    return side, tokens // side


def _interleave(mix: Mix, x: Tensor) -> Tensor:
    even, odd = mix.cut(x, 0, None, 2), mix.cut(x, 1, None, 2)
    both = torch.cat([even * 2, odd + 1], mix.t)
    place = torch.arange(mix.tokens, device=x.device)
    place = torch.cat([place[::2], place[1::2]])
    return both.index_select(mix.t, place.argsort())


def _pixels(mix: Mix, x: Tensor) -> Tensor:
    if mix.tokens % 2:
        return x.flip(mix.t)
    pairs = x.unflatten(mix.t, (-1, 2))
    return pairs.flip(mix.t + 1).flatten(mix.t, mix.t + 1)


def _unfold(mix: Mix, x: Tensor) -> Tensor:
    padded = torch.cat([mix.cut(x, 0, 1), x, mix.cut(x, -1, None)], mix.t)
    return padded.unfold(mix.t, 3, 1).amax(-1)


def _chunks(mix: Mix, x: Tensor) -> Tensor:
    pieces = x.chunk(2, mix.t)
    return torch.cat([piece * (i + 1) for i, piece in enumerate(pieces)], mix.t)


def _swapped_chunks(mix: Mix, x: Tensor) -> Tensor:
    return torch.cat(x.chunk(2, mix.t)[::-1], mix.t)


def _differences(mix: Mix, x: Tensor) -> Tensor:
    return torch.cat([mix.cut(x, 0, 1), mix.cut(x, 1, None) - mix.cut(x, None, -1)], mix.t)


def _grid(mix: Mix, x: Tensor) -> Tensor:
    maps = mix.channels_first(x).unflatten(2, grid_of(mix.tokens))
    return mix.tokens_back(F.conv2d(maps, mix.weight, padding=1, groups=maps.shape[1]).flatten(2))


def _linear(mix: Mix, x: Tensor) -> Tensor:
    return mix.tokens_back(F.linear(mix.channels_first(x), mix.weight))


def _einsum(mix: Mix, x: Tensor) -> Tensor:
    return torch.einsum("bnc,mn->bmc" if mix.t == 1 else "nbc,mn->mbc", x, mix.weight)


def _conv(mix: Mix, x: Tensor) -> Tensor:
    return mix.tokens_back(F.conv1d(mix.channels_first(x), mix.weight, padding=1))


def _pool(mix: Mix, x: Tensor) -> Tensor:
    return mix.tokens_back(F.avg_pool1d(mix.channels_first(x), 3, 1, 1))


def _resize(mix: Mix, x: Tensor) -> Tensor:
    small = F.interpolate(mix.channels_first(x), size=(mix.tokens + 1) // 2, mode="linear")
    return mix.tokens_back(F.interpolate(small, size=mix.tokens, mode="nearest")).contiguous()


def _scramble(mix: Mix, x: Tensor) -> Tensor:
    """Tokens and channels read in another order, as a wrong view would."""
    maps = mix.channels_first(x)
    rows = maps.reshape(maps.shape[0], maps.shape[2], maps.shape[1])
    return rows if mix.t == 1 else rows.transpose(0, 1)


def _windows(mix: Mix, x: Tensor) -> Tensor:
    """Each window of tokens minus its own mean."""
    windows = x.unflatten(mix.t, grid_of(mix.tokens))
    return (windows - windows.mean(mix.t + 1, keepdim=True)).flatten(mix.t, mix.t + 1)


def _index_add(mix: Mix, x: Tensor) -> Tensor:
    place = mix.order[:1]
    return x.index_add(mix.t, place, mix.weight.expand(*x.index_select(mix.t, place).shape))


def _where(mix: Mix, x: Tensor) -> Tensor:
    first = torch.arange(mix.tokens, device=x.device) < mix.tokens // 2
    return torch.where(first.view(1, -1, 1) if mix.t == 1 else first.view(-1, 1, 1), x, mix.weight)


def _group_norm(mix: Mix, x: Tensor) -> Tensor:
    return mix.tokens_back(F.group_norm(mix.channels_first(x), 1))


def _affinity(mix: Mix, x: Tensor) -> Tensor:
    """A graph network's layer: shares by distance, no softmax."""
    rows = x if mix.t == 1 else x.transpose(0, 1)
    near = torch.exp(-torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist"))
    out = (near / near.sum(-1, keepdim=True)) @ rows
    return out if mix.t == 1 else out.transpose(0, 1)


def _last(mix: Mix, x: Tensor) -> Tensor:
    return x + x.select(mix.t, mix.tokens // 2).unsqueeze(mix.t)


def _gram(mix: Mix, x: Tensor) -> Tensor:
    rows = x if mix.t == 1 else x.transpose(0, 1)
    out = rows @ (rows.mT @ rows).softmax(-1)
    return out if mix.t == 1 else out.transpose(0, 1)


def _excite(mix: Mix, x: Tensor) -> Tensor:
    return x * x.mean(mix.t, keepdim=True).sigmoid()


KNOWN: dict[str, Callable[[Mix, Tensor], Tensor]] = {
    "centre": lambda mix, x: x - x.mean(mix.t, keepdim=True),
    "sum": lambda mix, x: x + x.sum(mix.t, keepdim=True) / mix.tokens,
    "peak": lambda mix, x: x - x.amax(mix.t, keepdim=True),
    "share": lambda mix, x: x * x.softmax(mix.t),
    "excite": _excite,
    "gram": _gram,
    "first": lambda mix, x: x + mix.cut(x, 0, 1),
    "last": lambda mix, x: x * mix.cut(x, -1, None),
    "logsumexp": lambda mix, x: x - x.logsumexp(mix.t, keepdim=True),
}
"""Ops that the pass can carry merged tokens through."""

ALIEN: dict[str, Callable[[Mix, Tensor], Tensor]] = {
    "roll": lambda mix, x: x.roll(1, mix.t),
    "flip": lambda mix, x: x.flip(mix.t),
    "cumsum": lambda mix, x: x.cumsum(mix.t) / mix.tokens,
    "sort": lambda mix, x: x.sort(mix.t).values,
    "fft": lambda mix, x: torch.fft.fft(x, dim=mix.t).real / mix.tokens,
    "conv1d": _conv,
    "linear": _linear,
    "einsum": _einsum,
    "interleave": _interleave,
    "pixels": _pixels,
    "index_select": lambda mix, x: x.index_select(mix.t, mix.order),
    "unfold": _unfold,
    "chunks": _chunks,
    "swapped-chunks": _swapped_chunks,
    "differences": _differences,
    "grid": _grid,
    "pool": _pool,
    "resize": _resize,
    "scramble": _scramble,
    "windows": _windows,
    "index_add": _index_add,
    "where": _where,
    "group-norm": _group_norm,
    "layer-norm": lambda mix, x: mix.tokens_back(
        F.layer_norm(mix.channels_first(x).mT, mix.weight.shape, mix.weight).mT
    ),
    "var": lambda mix, x: x / (x.var(mix.t, keepdim=True, correction=0) + 1).sqrt(),
    "norm": lambda mix, x: F.normalize(x, dim=mix.t),
    "median": lambda mix, x: x - x.median(mix.t, keepdim=True).values,
    "affinity": _affinity,
    "middle": _last,
    "logcumsumexp": lambda mix, x: x.logcumsumexp(mix.t),
}
"""Ops that need every token."""

ACROSS_BATCH: dict[str, Callable[[Mix, Tensor], Tensor]] = {
    "batch-mean": lambda mix, x: x - x.mean(1 - mix.t, keepdim=True),
    "batch-roll": lambda mix, x: x + x.roll(1, 1 - mix.t),
}
"""Ops by which the items of a batch meet."""

KINDS = KNOWN | ALIEN | ACROSS_BATCH | several.KINDS

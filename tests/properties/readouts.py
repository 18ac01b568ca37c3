"""What a program makes of its tokens at the end, or on the way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.properties.mixing import grid_of

CLASSES = 5


class Readout(nn.Module):
    """x (B, N, C) or (N, B, C) → an output."""

    def __init__(self, kind: str, tokens: int, width: int, heads: int, t: int) -> None:
        super().__init__()
        self.kind, self.t, self.tokens, self.heads = kind, t, tokens, heads
        self.head = nn.Linear(width, CLASSES)
        if kind in ("norm-mean", "norm-first"):
            self.norm = nn.LayerNorm(width)
        if kind == "pool":
            self.query = nn.Parameter(torch.empty(1, 1, width))
            self.kv = nn.Linear(width, 2 * width)
        if kind == "grid":
            self.conv = nn.Conv2d(width, 2, 3, padding=1)
        if kind == "mixer":
            self.mix = nn.Linear(tokens, 2)

    def forward(self, x: Tensor, seen: Tensor | None, targets: Tensor) -> Tensor:
        """seen (B, T) or None; targets (B, T), both of the first stream."""
        return KINDS[self.kind](self, x, seen, targets)

    def rows(self, x: Tensor) -> Tensor:
        """(B, N, C)."""
        return x if self.t == 1 else x.transpose(0, 1)


def _first(r: Readout, x: Tensor, seen: Tensor | None, targets: Tensor) -> Tensor:
    return r.head(x.select(r.t, 0))


def _mean(r: Readout, x: Tensor, seen: Tensor | None, targets: Tensor) -> Tensor:
    return r.head(x.mean(r.t))


def _rest(r: Readout, x: Tensor, seen: Tensor | None, targets: Tensor) -> Tensor:
    return r.head(x.narrow(r.t, 1, r.tokens - 1).mean(r.t)) if r.tokens > 1 else r.head(x)


def _both(r: Readout, x: Tensor, seen: Tensor | None, targets: Tensor) -> Tensor:
    rows = r.rows(x)
    return r.head(rows[:, 0] + rows[:, -1] + rows[:, 1:].sum(1) / r.tokens)


def _pool(r: Readout, x: Tensor, seen: Tensor | None, targets: Tensor) -> Tensor:
    rows = r.rows(x)
    k, v = r.kv(rows).unflatten(-1, (2, r.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    q = r.query.expand(rows.shape[0], -1, -1).unflatten(-1, (r.heads, -1)).transpose(1, 2)
    out = F.scaled_dot_product_attention(q, k, v)
    return r.head(out.transpose(1, 2).flatten(2)[:, 0])


def _grid(r: Readout, x: Tensor, seen: Tensor | None, targets: Tensor) -> Tensor:
    return r.conv(r.rows(x).transpose(1, 2).unflatten(2, grid_of(r.tokens)))


def _logits(r: Readout, x: Tensor, seen: Tensor | None, targets: Tensor) -> Tensor:
    return r.head(x)


def _loss(r: Readout, x: Tensor, seen: Tensor | None, targets: Tensor) -> Tensor:
    logits = r.head(r.rows(x))
    return F.cross_entropy(logits.transpose(1, 2), targets[:, : r.tokens], reduction="none")


def _mean_loss(r: Readout, x: Tensor, seen: Tensor | None, targets: Tensor) -> Tensor:
    logits = r.head(r.rows(x))
    return F.cross_entropy(logits.flatten(0, 1), targets[:, : r.tokens].flatten())


def _ignored_loss(r: Readout, x: Tensor, seen: Tensor | None, targets: Tensor) -> Tensor:
    """Some tokens have no target."""
    wanted = targets[:, : r.tokens].masked_fill(targets[:, : r.tokens] == 0, -100)
    logits = r.head(r.rows(x)).flatten(0, 1)
    return F.cross_entropy(logits, wanted.flatten(), ignore_index=-100, reduction="sum")


def _kept(r: Readout, x: Tensor, seen: Tensor | None, targets: Tensor) -> Tensor:
    """The mean of the best tokens, the others dropped."""
    rows = r.rows(x)
    best = r.head(rows)[..., 0].topk((r.tokens + 1) // 2, 1).indices
    return r.head(rows.gather(1, best.unsqueeze(-1).expand(-1, -1, rows.shape[-1])).mean(1))


def _masked_mean(r: Readout, x: Tensor, seen: Tensor | None, targets: Tensor) -> Tensor:
    rows = r.rows(x)
    if seen is None or seen.shape[1] != r.tokens:
        return r.head(rows.sum(1))
    weight = seen.to(x.dtype).unsqueeze(-1)
    return r.head((rows * weight).sum(1) / weight.sum(1).clamp(min=1))


def _softmax_pool(r: Readout, x: Tensor, seen: Tensor | None, targets: Tensor) -> Tensor:
    rows = r.rows(x)
    return torch.einsum("bnk,bnc->bkc", r.head(rows).softmax(1), rows)


def _top(r: Readout, x: Tensor, seen: Tensor | None, targets: Tensor) -> Tensor:
    return r.head(r.rows(x)).topk(min(2, r.tokens), 1).values


KINDS: dict[str, Callable[[Readout, Tensor, Tensor | None, Tensor], Tensor]] = {
    "tokens": lambda r, x, seen, targets: x,
    "logits": _logits,
    "first": _first,
    "last": lambda r, x, seen, targets: r.head(r.rows(x)[:, -1]),
    "middle": lambda r, x, seen, targets: r.head(r.rows(x)[:, r.tokens // 2]),
    "mean": _mean,
    "rest": _rest,
    "both": _both,
    "max": lambda r, x, seen, targets: r.head(x.amax(r.t)),
    "max-values": lambda r, x, seen, targets: r.head(x.max(r.t).values),
    "norm-mean": lambda r, x, seen, targets: r.head(r.norm(x).mean(r.t)),
    "norm-first": lambda r, x, seen, targets: r.head(r.norm(r.rows(x))[:, 0]),
    "pool": _pool,
    "grid": _grid,
    "loss": _loss,
    "mean-loss": _mean_loss,
    "ignored-loss": _ignored_loss,
    "kept": _kept,
    "cut": lambda r, x, seen, targets: r.rows(x)[:, 1:] if r.tokens > 1 else x,
    "channels": lambda r, x, seen, targets: x[..., :2],
    "masked-mean": _masked_mean,
    "softmax-pool": _softmax_pool,
    "top": _top,
    "mixer": lambda r, x, seen, targets: r.mix(r.rows(x).transpose(1, 2)),
    "everything": lambda r, x, seen, targets: r.head(x).mean(),
}

"""Ops that take a dtype, a device or a shape from one operand and the values from another.

Whose dimensions the result has is for each op to say; a stream of merged tokens and a parameter
lend to one another here, with parameters of every rank and with dimensions of size 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.properties import description as d

SHAPES = ("", "C", "1C", "TC", "1TC", "T", "1T", "BC", "BTC", "items")
"""Dimensions of x that a parameter has: tokens, channels, items; with ``1`` it has x's rank.

``"items"`` is (B, C), which does not broadcast against x.
"""


class Lend(nn.Module):
    """x (B, N, C) or (N, B, C), t its token dimension → a tensor of the same shape."""

    def __init__(self, spec: d.Lend, tokens: int, width: int, t: int, stream: int) -> None:
        super().__init__()
        self.spec, self.t, self.tokens = spec, t, tokens
        shape = [1, 1, 1]
        if "T" in spec.shape:
            shape[t] = tokens
        if "C" in spec.shape or spec.shape == "items":
            shape[2] = width
        kept = 3
        if not ("1" in spec.shape or "B" in spec.shape or spec.shape == "items"):
            kept = max((3 - i for i in range(3) if shape[i] > 1), default=0)
        self.p = nn.Parameter(torch.empty(shape[3 - kept :]))
        self.along_tokens = {"p": ((t - 3 + kept, stream),)} if "T" in spec.shape else {}
        if spec.use == "linear":
            self.linear = nn.Linear(width, width)
        if spec.use == "cat":
            self.fuse = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, items: Tensor) -> Tensor:
        """items (B,): a number for every item of the batch."""
        p = self.p
        if "B" in self.spec.shape or self.spec.shape == "items":
            p = p * items.to(p.dtype).view((-1, 1, 1) if self.t == 1 else (1, -1, 1))
        if self.spec.shape == "items":
            op = self.spec.op if self.spec.op in NO_BROADCAST else "type-as"
            q = OPS[op](x, p.squeeze(self.t)).unsqueeze(self.t)
        else:
            q = OPS[self.spec.op](x, p)
        return USES[self.spec.use](self, x, q)

    def place(self, q: Tensor) -> int:
        """The dimension of q that is meant."""
        return self.spec.dim % max(q.dim(), 1)


def _masked_fill_by(x: Tensor, p: Tensor) -> Tensor:
    return x.masked_fill(p > 0, p.reshape(-1)[0])


def _fill_masked_by(x: Tensor, p: Tensor) -> Tensor:
    return p.expand_as(x).masked_fill(x > 0, x.new_full((), 0.5))


OPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "type-as": lambda x, p: p.type_as(x),
    "to": lambda x, p: p.to(x),
    "to-dtype": lambda x, p: p.to(device=x.device, dtype=x.dtype),
    "new-full": lambda x, p: x.new_full(p.shape, 0.5) * p,
    "new-zeros": lambda x, p: x.new_zeros(p.shape) + p,
    "new-ones": lambda x, p: p * x.new_ones(()),
    "new-empty": lambda x, p: x.new_empty(p.shape).copy_(p),
    "copy": lambda x, p: torch.ops.aten.copy(torch.zeros_like(p), p.to(x)),
    "where-scalar": lambda x, p: torch.where(p > 0, p, 0.5),
    "maximum": lambda x, p: torch.maximum(p, x.new_zeros(())),
    "clone-like": lambda x, p: torch.empty_like(p, dtype=x.dtype).copy_(p),
    "expand-as": lambda x, p: p.expand_as(x),
    "expand": lambda x, p: p.expand(x.shape),
    "broadcast": lambda x, p: torch.broadcast_tensors(p, x)[0],
    "view-as": lambda x, p: p.expand_as(x).contiguous().view_as(x),
    "reshape-as": lambda x, p: p.expand_as(x).reshape_as(x),
    "zeros-like": lambda x, p: torch.zeros_like(x) + p,
    "ones-like": lambda x, p: torch.ones_like(x[..., :1]) * p,
    "full-like": lambda x, p: torch.full_like(x, 0.5) * p,
    "empty-like": lambda x, p: torch.empty_like(x).copy_(p),
    "zeros-like-copy": lambda x, p: torch.ops.aten.copy(torch.zeros_like(x), p),
    "new-zeros-whole": lambda x, p: x.new_zeros(x.shape) + p,
    "where-0-dim": lambda x, p: torch.where(x.new_ones((), dtype=torch.bool), p, x),
    "where-condition": lambda x, p: torch.where(x > 0, p, 0.5),
    "where-else": lambda x, p: torch.where(p > 0, x, 0.0),
    "masked-fill": _masked_fill_by,
    "masked-fill-tensor": _fill_masked_by,
    "lent-to": lambda x, p: x.to(p),
    "lent-type-as": lambda x, p: x.type_as(p) * p,
    "sum-0-dim": lambda x, p: x + p.sum(),
    "mul-0-dim": lambda x, p: x * p.reshape(-1)[0],
    "clamp": lambda x, p: x.clamp(max=p.abs().max()),
    "clamp-by": lambda x, p: x.clamp(max=p),
    "rsub": lambda x, p: torch.rsub(x, p),
}
"""(x, p) → p in some way like x, or x like p."""

NO_BROADCAST = tuple(OPS)[:11]
"""Those whose result has p's own shape."""


def _summed(lend: Lend, x: Tensor, q: Tensor) -> Tensor:
    return x + q.sum(lend.place(q), keepdim=True) / lend.tokens**0.5 if q.dim() else x + q


def _softmaxed(lend: Lend, x: Tensor, q: Tensor) -> Tensor:
    return x * q.softmax(lend.place(q)) if q.dim() else x * q


def _mean_then_sum(lend: Lend, x: Tensor, q: Tensor) -> Tensor:
    """Shares by q of the tokens, their mean over one dimension, and the sum over another."""
    share = (x * q).softmax(lend.t)
    first = share.mean(lend.place(share), keepdim=True)
    return x + first.sum((lend.place(share) + 1) % 3, keepdim=True)


def _linear(lend: Lend, x: Tensor, q: Tensor) -> Tensor:
    return x + lend.linear(q if q.dim() and q.shape[-1] == x.shape[-1] else q.expand_as(x))


def _outer(lend: Lend, x: Tensor, q: Tensor) -> Tensor:
    """All tokens summed with weights of q."""
    return x + (x * q).sum(lend.t, keepdim=True) / lend.tokens


USES: dict[str, Callable[[Lend, Tensor, Tensor], Tensor]] = {
    "add": lambda lend, x, q: x + q,
    "gate": lambda lend, x, q: x * q.sigmoid(),
    "sum": _summed,
    "softmax": _softmaxed,
    "mean-then-sum": _mean_then_sum,
    "weighed": _outer,
    "linear": _linear,
    "cat": lambda lend, x, q: lend.fuse(torch.cat([x, q.expand_as(x)], -1)),
    "norm": lambda lend, x, q: x + F.layer_norm(q.expand_as(x), x.shape[-1:]),
    "max": lambda lend, x, q: x - (q.amax(lend.place(q), keepdim=True) if q.dim() else q),
}

ALONG_ANY = ("sum", "softmax", "mean-then-sum", "max")
"""Uses along a drawn dimension, which may be the batch."""

"""Ways to spell a residual connection: how a stream x and what a layer makes of it, a, meet.

Each takes x and a of one shape (…, C) and yields tokens of that shape, in which every token of x
reaches itself. Tokens may be any of the leading dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Residual = Callable[[Tensor, Tensor], Tensor]


def _gate(x: Tensor) -> Tensor:
    """Between 0 and 1, for every channel of every token."""
    return torch.sigmoid(x.roll(1, -1))


def _scale(x: Tensor) -> Tensor:
    """(C,): one factor for each channel."""
    return torch.linspace(0.5, 1.5, x.shape[-1], dtype=x.dtype, device=x.device)


def _mixed(x: Tensor, times: int) -> Tensor:
    """(C, times · C): a projection."""
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return torch.cat([eye + 0.1 * i for i in range(times)], 1)


def _kept(x: Tensor) -> Tensor:
    """(1, …, 1): whether a layer's output is kept, as stochastic depth draws it."""
    return torch.ones([1] * x.dim(), dtype=x.dtype, device=x.device)


def _fused(x: Tensor, a: Tensor) -> Tensor:
    """The sum of a list, as Python spells it."""
    return torch.as_tensor(sum([x, a]))


def _streams(x: Tensor, a: Tensor) -> Tensor:
    """Hyper-connections: copies of the stream that mix, and of which each takes its share of a."""
    copies = torch.stack([x, x * 0.5, -x], -2)
    share = torch.linspace(0.5, 1.0, 3, dtype=x.dtype, device=x.device)[:, None]
    mix = torch.eye(3, dtype=x.dtype, device=x.device) + 0.1
    return (mix @ copies + share * a.unsqueeze(-2)).sum(-2)


SAME: dict[str, Residual] = {
    "add": lambda x, a: x + a,
    "add-turned": lambda x, a: a + x,
    "add-alpha": lambda x, a: torch.add(x, a, alpha=0.5),
    "add-scalars": lambda x, a: 0.25 + (x + 1.0) * 2.0 + (a - 0.5),
    "sum-of-list": _fused,
    "sub": lambda x, a: x - a,
    "sub-turned": lambda x, a: a - x,
    "rsub": lambda x, a: torch.rsub(a, x, alpha=0.5),
    "to-device": lambda x, a: a + x.to(a.device),
    "to-other": lambda x, a: a + x.to(a),
    "type-as": lambda x, a: a + x.type_as(a),
    "detach": lambda x, a: a + x.detach(),
    "clone": lambda x, a: x.clone() + a,
    "contiguous": lambda x, a: a + x.contiguous(),
    "expand-as": lambda x, a: a + x.expand_as(a),
    "narrow-and-back": lambda x, a: (x.float() + a.float()).to(x.dtype),
    "double": lambda x, a: (x.double() + a.double()).to(a.dtype),
}
"""Sums and differences, with casts and copies."""

SCALED: dict[str, Residual] = {
    "lerp": lambda x, a: torch.lerp(x, a, 0.3),
    "lerp-gate": lambda x, a: torch.lerp(x, a, _gate(x)),
    "lerp-turned": lambda x, a: torch.lerp(a, x, _gate(a)),
    "addcmul": lambda x, a: torch.addcmul(x, a, _scale(x)),
    "addcdiv": lambda x, a: torch.addcdiv(x, a, _scale(x)),
    "layer-scale": lambda x, a: x + _scale(x) * a,
    "einsum-scale": lambda x, a: x + torch.einsum("...c,c->...c", a, _scale(x)),
    "einsum-stream": lambda x, a: torch.einsum("ijc,c->ijc", x, _scale(x)) + a,
    "matmul-stream": lambda x, a: x @ _mixed(x, 1) + a,
    "projected": lambda x, a: F.linear(x, _mixed(x, 1)) + a,
    "deep-norm": lambda x, a: F.layer_norm(1.7 * x + a, x.shape[-1:]),
    "rms-after": lambda x, a: (x + a) * (x + a).square().mean(-1, keepdim=True).rsqrt(),
    "drop-path": lambda x, a: x + a * (_kept(x) / 0.9),
    "stochastic-depth": lambda x, a: torch.where(_kept(x) > 0, x + a, x),
    "masked": lambda x, a: x.masked_fill(x > 1e9, 0.0) + a,
    "highway": lambda x, a: _gate(x) * x + (1 - _gate(x)) * a,
    "modulated": lambda x, a: x * (1 + a),
    "largest": lambda x, a: torch.maximum(x, a),
    "squared-distance": lambda x, a: torch.hypot(x, a),
}
"""Scales, gates, and other functions of the two."""

STACKED: dict[str, Residual] = {
    "stack-sum": lambda x, a: torch.stack([a, x]).sum(0),
    "stack-mean": lambda x, a: torch.stack([x, a], -1).mean(-1),
    "stack-weighted": lambda x, a: torch.einsum("s,sijc->ijc", _scale(x)[:2], torch.stack([x, a])),
    "cat-linear": lambda x, a: F.linear(torch.cat([x, a], -1), _mixed(x, 2)),
    "cat-of-more": lambda x, a: F.linear(torch.cat([a, x, a * x], -1), _mixed(x, 3)),
    "cat-halves": lambda x, a: torch.cat([x, a], -1).unflatten(-1, (2, -1)).sum(-2),
    "streams": _streams,
}
"""Both beside each other first."""

REGROUPED: dict[str, Residual] = {
    "view": lambda x, a: a + x.view(x.shape),
    "reshape-as": lambda x, a: a + x.reshape_as(a),
    "flatten-and-back": lambda x, a: (x.flatten(0, 1) + a.flatten(0, 1)).unflatten(0, x.shape[:2]),
    "stream-flattened": lambda x, a: x.flatten(0, 1).unflatten(0, x.shape[:2]) + a,
    "all-flattened": lambda x, a: (x.reshape(-1) + a.reshape(-1)).view(x.shape),
    "transposed": lambda x, a: (x.transpose(0, 1) + a.transpose(0, 1)).transpose(0, 1),
    "channels-first": lambda x, a: (x.permute(0, 2, 1) + a.permute(0, 2, 1)).permute(0, 2, 1),
    "channels-split": lambda x, a: (x.unflatten(-1, (2, -1)) + a.unflatten(-1, (2, -1))).flatten(
        -2
    ),
    "unsqueezed": lambda x, a: (x.unsqueeze(1) + a.unsqueeze(1)).squeeze(1),
    "chunks": lambda x, a: torch.cat(
        [p + q for p, q in zip(x.chunk(2, -1), a.chunk(2, -1), strict=True)], -1
    ),
}
"""In another shape meanwhile."""

IN_PLACE: dict[str, Residual] = {
    "a-add_": lambda x, a: a.add_(x),
    "x-add_": lambda x, a: x.add_(a),
    "clone-add_": lambda x, a: x.clone().add_(a),
    "copy_": lambda x, a: x.copy_(x + a),
    "mul_-add_": lambda x, a: a.mul_(0.5).add_(x),
    "lerp_": lambda x, a: a.lerp_(x, 0.4),
    "out-of-empty": lambda x, a: torch.empty_like(x).copy_(x).add_(a),
}
"""Written over x or a: whoever kept them sees it."""

SPELLINGS: dict[str, Residual] = {**SAME, **SCALED, **STACKED, **REGROUPED}
"""All that write nothing."""

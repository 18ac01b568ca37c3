"""Per-token layers: norms and MLPs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TokenBatchNorm(nn.Module):
    """BatchNorm with fixed statistics on (…, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(0, 1)).view_as(x)


class L2(nn.Module):
    """Each token to length √C."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * x.shape[-1] ** 0.5


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
    "batch": TokenBatchNorm,
    "l2": lambda width: L2(),
    "none": lambda width: nn.Identity(),
}


class Mlp(nn.Module):
    """C → 4C → C."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        gates = kind in ("swiglu", "geglu")
        self.up = nn.Linear(width, (4 + 4 * gates) * width)
        self.down = nn.Linear(4 * width, width)
        if kind == "conv":
            self.up_conv = nn.Conv1d(4 * width, 4 * width, 1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(MLPS[self.kind](self, self.up(x)))


def _swiglu(mlp: Mlp, x: Tensor) -> Tensor:
    gate, value = x.chunk(2, -1)
    return F.silu(gate) * value


def _geglu(mlp: Mlp, x: Tensor) -> Tensor:
    return F.gelu(x[..., ::2]) * x[..., 1::2]


def _squared(mlp: Mlp, x: Tensor) -> Tensor:
    return x.relu_().square()


def _conv(mlp: Mlp, x: Tensor) -> Tensor:
    return F.gelu(mlp.up_conv(x.mT).mT)


MLPS: dict[str, Callable[[Mlp, Tensor], Tensor]] = {
    "gelu": lambda mlp, x: F.gelu(x),
    "tanh": lambda mlp, x: F.gelu(x, approximate="tanh"),
    "swiglu": _swiglu,
    "geglu": _geglu,
    "squared": _squared,
    "softmax": lambda mlp, x: x.softmax(-1),
    "conv": _conv,
    "flat": lambda mlp, x: torch.tanh(x.flatten(0, 1)).view(x.shape),
}

"""What the rules are tried on: cases by op family, one table for every file of rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """What to run on merged tokens, and what should become of them.

    Attributes:
        f: of x (B, N, C), merged along N with tokens protected at both ends, and of operands.
        operands: their shapes in letters, D being C / 2; all of them are dense.
        carried: the result is still merged (else the op was lifted, or reduced the tokens).
        lifts: tokens had to be unmerged.
        projected: numbers of the operands that are merged along, by their means over groups.
    """

    f: Callable[..., Any]
    operands: tuple[str, ...] = ()
    carried: bool = True
    lifts: bool = False
    projected: tuple[int, ...] = ()


def reduces(f: Callable[..., Any], **kwargs: Any) -> Case:
    """The op sums tokens up: nothing merged remains, and nothing had to be lifted."""
    return Case(f, carried=False, **kwargs)


def lifted(f: Callable[..., Any], **kwargs: Any) -> Case:
    """The op needs every token."""
    return Case(f, carried=False, lifts=True, **kwargs)


def heads(x: Tensor) -> Tensor:
    b, _, c = x.shape
    return x.view(b, -1, 2, c // 2).transpose(1, 2)


def asserting_dtype(x: Tensor) -> Tensor:
    torch.ops.aten._assert_tensor_metadata.default(x, dtype=torch.float64)
    return x * 2


def tokens_first(x: Tensor) -> Tensor:
    b, n, c = x.shape
    return x.transpose(0, 1).reshape(n * b, c).view(n, b, c)


def sdpa(x: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
    q = heads(x)
    out = F.scaled_dot_product_attention(q, q * 0.5, q + 1, mask, **kwargs)
    return out.transpose(1, 2).reshape(x.shape)


POINTWISE = {
    "relu": Case(lambda x: F.relu(x)),
    "gelu": Case(lambda x: F.gelu(x, approximate="tanh")),
    "scale and shift": Case(lambda x, a: x * a + 1, ("C",)),
    "add per token": Case(torch.add, ("BNC",), projected=(0,)),
    "add positions": Case(torch.add, ("1NC",), projected=(0,)),
    "add positions without batch": Case(torch.add, ("NC",), projected=(0,)),
    "multiply by a token mask": Case(torch.mul, ("BN1",), projected=(0,)),
    "per batch item": Case(torch.add, ("B1C",)),
    "where": Case(lambda x: torch.where(x > 0, x, -x)),
    "hardswish": Case(lambda x: F.hardswish(x)),
    "prelu": Case(lambda x, w: F.prelu(x, w), ("1",)),
    "prelu per token": lifted(lambda x, w: F.prelu(x, w), operands=("N",)),
    "masked_fill": Case(lambda x: x.masked_fill(x > 0, 0.5)),
    "clamp": Case(lambda x: x.clamp(-1, 1)),
    "dtype": Case(lambda x: x.to(torch.float32).double()),
    "contiguous": Case(lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)),
    "zeros_like": Case(lambda x: torch.zeros_like(x) + x),
    "new tensor of dense size": Case(lambda x: x + x.new_ones((len(x), 1, x.shape[2]))),
    "metadata assert": Case(asserting_dtype),
    "bool per token": lifted(lambda x, m: x.masked_fill(m > 0, 0.0), operands=("BN1",)),
}

SHAPE = {
    "split heads": Case(lambda x: heads(x).transpose(1, 2).reshape(x.shape)),
    "qkv": Case(lambda x: x.reshape(*x.shape[:2], 3, -1).permute(2, 0, 1, 3).unbind(0)[1]),
    "flatten batch and tokens": Case(lambda x: x.reshape(-1, x.shape[2]).relu().reshape(x.shape)),
    "tokens first": Case(tokens_first),
    "unsqueeze": Case(lambda x: x.unsqueeze(1).squeeze(1)),
    "unflatten": Case(lambda x: x.unflatten(2, (2, -1)).flatten(2)),
    "expand": Case(lambda x: x.unsqueeze(2).expand(*x.shape[:2], 3, x.shape[2])),
    "expand_as": Case(lambda x: x[:, :, :1].expand_as(x)),
    "repeat channels": Case(lambda x: x.repeat(1, 1, 2)),
    "reshape_as": Case(
        lambda x: heads(x).transpose(1, 2).reshape_as(x) + x.flatten(0, 1).view_as(x)
    ),
    "repeat each channel": Case(lambda x: x.repeat_interleave(2, -1)),
    "complex": Case(
        lambda x: torch.view_as_real(
            torch.view_as_complex(x.view(*x.shape[:2], -1, 2)) * 2j
        ).flatten(2)
    ),
    "movedim": Case(lambda x: x.movedim(1, 2)),
    "repeat tokens": lifted(lambda x: x.repeat(1, 2, 1)),
    "repeat each token": lifted(lambda x: x.repeat_interleave(2, 1)),
    "grid": lifted(lambda x: x.transpose(1, 2).unflatten(2, (2, -1))),
}

SLICE = {
    "first token": reduces(lambda x: x[:, 0]),
    "drop the first": Case(lambda x: x[:, 1:]),
    "keep the first": reduces(lambda x: x[:, :1]),
    "apart and together": Case(lambda x: torch.cat([x[:, :1] * 2, x[:, 1:] + 1], 1)),
    "split sizes": Case(lambda x: torch.cat(x.split_with_sizes([1, x.shape[1] - 1], 1), 1)),
    "chunk channels": Case(lambda x: torch.cat(x.chunk(2, -1)[::-1], -1)),
    "select a channel": Case(lambda x: x[..., 2]),
    "narrow": Case(lambda x: x.narrow(1, 1, x.shape[1] - 1)),
    "glu": Case(lambda x: F.glu(x)),
    "glu over tokens": lifted(lambda x: F.glu(x, 1)),
    "a token in the middle": lifted(lambda x: x[:, 5]),
    "every second": lifted(lambda x: x[:, ::2]),
    "halves": lifted(lambda x: x.chunk(2, 1)[0]),
    "unbind tokens": lifted(lambda x: x.unbind(1)[3]),
}

JOIN = {
    "prepend": Case(lambda x, t: torch.cat([t, x], 1), ("B2C",)),
    "append": Case(lambda x, t: torch.cat([x, t], 1), ("B2C",)),
    "append and sum": reduces(lambda x, t: torch.cat([x, t], 1).sum(1), operands=("B2C",)),
    "cat channels": Case(lambda x, y: torch.cat([x, y], 2), ("BN2",), projected=(0,)),
    "stack": Case(lambda x: torch.stack([x, x * 2]).sum(0)),
    "pad": Case(lambda x: F.pad(x, (0, 2, 1, 2), value=3.0)),
    "pad and sum": reduces(lambda x: F.pad(x, (0, 0, 0, 1), value=2.0).sum(1)),
    "pad and cut": reduces(lambda x: F.pad(x, (0, 0, 0, 1))[:, :-1].mT @ x),
    "pad by tokens": lifted(lambda x: F.pad(x.mT, (1, 1), mode="replicate")),
    "cut by padding": lifted(lambda x: F.pad(x, (0, 0, -1, 0))),
}

REDUCE = {
    "mean": reduces(lambda x: x.mean(1)),
    "mean of the rest": reduces(lambda x: x[:, 1:].mean(1)),
    "mean of everything": reduces(lambda x: x.mean()),
    "sum": reduces(lambda x: x.sum(1, keepdim=True)),
    "sum of complex": reduces(lambda x: torch.view_as_real(torch.complex(x, 2 * x).sum(1))),
    "sum channels": Case(lambda x: x.sum(-1)),
    "amax": reduces(lambda x: x.amax(1)),
    "any": reduces(lambda x: (x > 1).any(1)),
    "maximum of everything": reduces(lambda x: x.max()),
    "logsumexp": reduces(lambda x: x.logsumexp(1)),
    "max channels": Case(lambda x: x.max(-1).values),
    "var channels": Case(lambda x: x.var(-1, keepdim=True)),
    "norm channels": Case(lambda x: F.normalize(x, dim=-1)),
    "cumsum channels": Case(lambda x: x.cumsum(-1)),
    "topk channels": Case(lambda x: x.topk(2, -1).values),
    "var": lifted(lambda x: x.var(1)),
    "max values": reduces(lambda x: x.max(1).values + x.min(1).values),
    "max with index": lifted(lambda x: x.max(1).indices),
    "cumsum": lifted(lambda x: x.cumsum(1)),
    "sort": lifted(lambda x: x.sort(1).values),
    "roll": lifted(lambda x: x.roll(1, 1)),
    "flip": lifted(lambda x: x.flip(1)),
    "flip and add": lifted(lambda x: x + x.flip(1)),
    "mean over batch": lifted(lambda x: x.mean(0)),
}

NORMALISE = {
    "softmax": Case(lambda x: x.softmax(1)),
    "log_softmax": Case(lambda x: x.log_softmax(1)),
    "softmax over the batch": lifted(lambda x: x.softmax(0)),
    "softmax channels": Case(lambda x: x.softmax(-1)),
    "layer norm": Case(lambda x, w: F.layer_norm(x, w.shape, w), ("C",)),
    "rms norm": Case(lambda x, w: F.rms_norm(x, w.shape, w), ("C",)),
    "native layer norm": Case(
        lambda x: torch.native_layer_norm(x, x.shape[2:], None, None, 1e-5)[0]
    ),
    "layer norm over tokens": lifted(lambda x: F.layer_norm(x, x.shape[1:])),
    "group norm": lifted(lambda x: F.group_norm(x.transpose(1, 2), 2)),
    "batch norm eval": Case(
        lambda x, m, v: F.batch_norm(x.transpose(1, 2), m, v.exp()), ("C", "C")
    ),
    "batch norm train": lifted(
        lambda x: F.batch_norm(x.transpose(1, 2), None, None, training=True)
    ),
}

CONTRACT = {
    "linear": Case(F.linear, ("5C", "5")),
    "matmul": Case(torch.matmul, ("C4",)),
    "scores": Case(lambda x: x @ x.transpose(1, 2)),
    "bmm over tokens": reduces(lambda x: torch.bmm(x.transpose(1, 2), x)),
    "linear attention": Case(lambda x: x @ (x.softmax(1).transpose(1, 2) @ x)),
    "baddbmm": Case(lambda x, b: torch.baddbmm(b, x, x.mT), ("1NN",), projected=(0,)),
    "einsum of one tensor twice": Case(
        lambda x, p: torch.einsum("bmd,bnd,bnc->bmc", p, p, x), ("BND",), carried=False, lifts=True
    ),
    "einsum scores": Case(lambda x: torch.einsum("bnc,bmc->bnm", x, x)),
    "einsum over tokens": reduces(lambda x: torch.einsum("bnc,bnd->bcd", x, x)),
    "einsum with an ellipsis": Case(lambda x: torch.einsum("...id,...jd->...ij", x, x)),
    "einsum heads": Case(
        lambda x, w: torch.einsum("bnhd,hde->bnhe", x.unflatten(2, (2, -1)), w), ("2D2",)
    ),
    "conv of width 1": Case(lambda x, w: F.conv1d(x.transpose(1, 2), w), ("4C1",)),
    "token mixing": lifted(lambda x, w: F.linear(x.transpose(1, 2), w), operands=("NN",)),
    "conv": lifted(lambda x, w: F.conv1d(x.transpose(1, 2), w, padding=1), operands=("4C3",)),
}

ATTENTION = {
    "sdpa": Case(lambda x: sdpa(x)),
    "sdpa scale": Case(lambda x: sdpa(x, scale=0.3)),
    "sdpa causal": lifted(lambda x: sdpa(x, is_causal=True)),
    "queries elsewhere": reduces(
        lambda x, q: F.scaled_dot_product_attention(q, x, x), operands=("B5C",)
    ),
    "keys elsewhere": Case(lambda x, k: F.scaled_dot_product_attention(x, k, k), ("B5C",)),
    "spelled out": Case(lambda x: (x @ x.mT).softmax(-1) @ x),
}

INDEX = {
    "channels by index": Case(lambda x: x.index_select(2, torch.tensor([3, 1]))),
    "embedding of a token's rank": reduces(
        lambda x, w: F.embedding((x.sum(1) > 0).long(), w), operands=("23",)
    ),
    "gather": lifted(lambda x: x.gather(1, x.argsort(1))),
    "tokens by index": lifted(lambda x: x.index_select(1, torch.tensor([3, 1]))),
    "fft": lifted(lambda x: torch.fft.fft(x, dim=1).real),
}

CASES = POINTWISE | SHAPE | SLICE | JOIN | REDUCE | NORMALISE | CONTRACT | ATTENTION | INDEX

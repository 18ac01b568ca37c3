"""Ops with several operands that are all tokens of the stream, merged alike or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.properties.mixing import Mix


def _cat_tokens(mix: Mix, x: Tensor) -> Tensor:
    """Twice the tokens, folded again."""
    first, second = torch.cat([x, x.tanh()], mix.t).chunk(2, mix.t)
    return first * 0.5 + second


def _cat_attention(mix: Mix, x: Tensor) -> Tensor:
    """Tokens attend to themselves and to a function of themselves."""
    rows = x if mix.t == 1 else x.transpose(0, 1)
    keys = torch.cat([rows, rows.tanh()], 1)
    out = F.scaled_dot_product_attention(rows, keys, keys)
    return out if mix.t == 1 else out.transpose(0, 1)


def _correlation(mix: Mix, x: Tensor) -> Tensor:
    rows = x if mix.t == 1 else x.transpose(0, 1)
    out = rows @ (rows.mT @ rows.tanh() / mix.tokens)
    return out if mix.t == 1 else out.transpose(0, 1)


def _pairwise(mix: Mix, x: Tensor) -> Tensor:
    """The mean over all pairs of a function of their difference."""
    differences = x.unsqueeze(mix.t) - x.unsqueeze(mix.t + 1)
    return differences.tanh().mean(mix.t)


def _three(mix: Mix, x: Tensor) -> Tensor:
    return torch.einsum("abc,abc,abd->abd", x.tanh(), x.sigmoid(), x) / x.shape[-1]


def _interleaved(mix: Mix, x: Tensor) -> Tensor:
    return torch.stack([x, x.tanh()], -1).flatten(-2)[..., ::2] + x.relu()


def _tensor_list(mix: Mix, x: Tensor) -> Tensor:
    return torch._foreach_add([x, x.tanh()], 1.0)[1]


def _clamped(mix: Mix, x: Tensor) -> Tensor:
    return torch.clamp(x, x.tanh() - 0.5, x.tanh() + 0.5)


def _means_apart(mix: Mix, x: Tensor) -> Tensor:
    """A token against two means of all tokens at once."""
    means = torch.stack([x.mean(mix.t), x.tanh().mean(mix.t)], mix.t)
    rows, means = (y if mix.t == 1 else y.transpose(0, 1) for y in (x, means))
    out = (rows @ means.mT).softmax(-1) @ means
    return out if mix.t == 1 else out.transpose(0, 1)


def _weighed_mean(mix: Mix, x: Tensor) -> Tensor:
    weight = x[..., :1].exp()
    mean = (weight * x).sum(mix.t, keepdim=True) / weight.sum(mix.t, keepdim=True)
    return x - mean


KINDS: dict[str, Callable[[Mix, Tensor], Tensor]] = {
    "addcmul": lambda mix, x: torch.addcmul(x, x.tanh(), x.sigmoid()),
    "addcdiv": lambda mix, x: torch.addcdiv(x, x.tanh(), x.square() + 1),
    "where-both": lambda mix, x: torch.where(x > 0, x.tanh(), x * 0.5),
    "stack": lambda mix, x: torch.stack([x, x.tanh(), x.relu()]).mean(0),
    "stack-max": lambda mix, x: torch.stack([x, x.tanh()], mix.t).amax(mix.t),
    "interleaved": _interleaved,
    "cat-tokens": _cat_tokens,
    "cat-attention": _cat_attention,
    "three": _three,
    "dot": lambda mix, x: x * F.cosine_similarity(x, x.tanh(), -1).unsqueeze(-1),
    "glu": lambda mix, x: F.glu(torch.cat([x, x.tanh()], -1), -1),
    "correlation": _correlation,
    "pairwise": _pairwise,
    "lerp": lambda mix, x: torch.lerp(x, x.tanh(), x.sigmoid()),
    "clamp": _clamped,
    "hypot": lambda mix, x: torch.hypot(x, x.tanh()),
    "foreach": _tensor_list,
    "means": _means_apart,
    "weighed-mean": _weighed_mean,
}
"""(mix, x) → the same shape; equal tokens stay equal."""

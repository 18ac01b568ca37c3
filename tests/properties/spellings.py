"""Attention that is no plain softmax, or none that is spelled so: products with q, k and v alike.

Each is a function of q, k, v (B, H, N, D), a mask (bool: True is seen; float: added to scores;
None) and one learned number per head, for those that have a sink.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor], Tensor]


def scores(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """q·kᵀ/√d, −∞ where a bool mask hides."""
    found = q @ k.mT * q.shape[-1] ** -0.5
    if mask is None:
        return found
    return found.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else found + mask


def shown(weights: Tensor, mask: Tensor | None) -> Tensor:
    """Weights, 0 where a bool mask hides."""
    hides = mask is not None and mask.dtype == torch.bool
    return torch.where(mask, weights, 0.0) if hides else weights


def biased(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """Scores with a float mask, a bool one being applied to the weights."""
    return scores(q, k, None if mask is None or mask.dtype == torch.bool else mask)


def sink_column(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    """GPT-OSS: one more score per row, whose weight is dropped."""
    z = scores(q, k, mask)
    column = sink.reshape(1, -1, 1, 1).expand(z.shape[0], -1, z.shape[2], 1)
    z = torch.cat([z, column], -1)
    z = z - z.amax(-1, keepdim=True)
    return z.softmax(-1)[..., :-1] @ v


def sink_first(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    z = scores(q, k, mask)
    column = sink.reshape(1, -1, 1, 1).expand(z.shape[0], -1, z.shape[2], 1)
    weights = torch.cat([column, z], -1).softmax(-1)[..., 1:]
    return torch.einsum("bhnm,bhmd->bhnd", weights, v)


def sink_below(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    """The sink as a term of the denominator."""
    z, sink = scores(q, k, mask), sink.reshape(1, -1, 1, 1)
    peak = torch.maximum(z.amax(-1, keepdim=True), sink)
    weights = (z - peak).exp()
    return weights / (weights.sum(-1, keepdim=True) + (sink - peak).exp()) @ v


def plus_one(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    """exp(z) / (1 + Σ exp(z)), safe from overflow."""
    z = scores(q, k, mask)
    peak = z.amax(-1, keepdim=True).clamp_min(0)
    weights = (z - peak).exp()
    return weights / ((-peak).exp() + weights.sum(-1, keepdim=True)) @ v


def plus_one_padded(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    """The same by a score of 0 beside the others."""
    return F.pad(scores(q, k, mask), (0, 1)).softmax(-1)[..., :-1] @ v


def zero_key(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    """The same by a key and a value of 0 beside the others, in a fused op."""
    k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    return F.scaled_dot_product_attention(q, k, v, None if mask is None else F.pad(mask, (0, 1)))


def by_hand(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    weights = scores(q, k, mask).exp()
    return weights / weights.sum(-1, keepdim=True) @ v


def by_hand_shifted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    z = scores(q, k, mask)
    weights = torch.exp(z - z.max(-1, keepdim=True)[0])
    return (weights @ v) / weights.sum(-1, keepdim=True)


def base_two(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    z = scores(q, k, mask) * 1.4426950408889634
    weights = torch.exp2(z - z.amax(-1, keepdim=True))
    return weights / weights.sum(-1, keepdim=True) @ v


def log_weights(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    return scores(q, k, mask).log_softmax(-1).exp() @ v


def log_partition(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    z = scores(q, k, mask)
    return (z - z.logsumexp(-1, keepdim=True)).exp() @ v


def sigmoid(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    return torch.sigmoid(scores(q, k, mask) - 2) @ v


def sigmoid_masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    """The mask as a factor of the weights."""
    weights = torch.sigmoid(biased(q, k, mask) - 2)
    hides = mask is not None and mask.dtype == torch.bool
    return (weights * mask.to(q.dtype) if hides else weights) @ v


def squared_relu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    return shown(biased(q, k, mask).relu().square(), mask) @ v / k.shape[-2]


def squared_relu_normalised(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor
) -> Tensor:
    weights = torch.relu(scores(q, k, mask)) ** 2
    return weights / (weights.sum(-1, keepdim=True) + 1) @ v


def capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    """Gemma 2: scores squashed before the mask."""
    z = torch.tanh(q @ k.mT / 5) * 5
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, -torch.inf).to(z.dtype)
    return (z if mask is None else z + mask).softmax(-1) @ v


def capped_after(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    """A bias inside the cap."""
    z = (torch.tanh(biased(q, k, mask) / 5) * 5).softmax(-1)
    return shown(z, mask) @ v


def differential(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    """The difference of two softmaxes."""
    (q1, q2), (k1, k2) = q.chunk(2, -1), k.chunk(2, -1)
    first, second = (scores(a, b, mask).softmax(-1) for a, b in ((q1, k1), (q2, k2)))
    return (first - sink.sigmoid().reshape(1, -1, 1, 1) * second) @ v


def differential_heads(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor
) -> Tensor:
    """The same with both as heads of one softmax."""
    q, k = (x.unflatten(-1, (2, -1)).movedim(-2, 1).flatten(1, 2) for x in (q, k))
    if mask is not None and mask.dim() > 2 and mask.shape[-3] > 1:
        mask = mask.repeat(2, 1, 1)
    weights = scores(q, k, mask).softmax(-1).unflatten(1, (2, -1))
    return (weights[:, 0] - 0.4 * weights[:, 1]) @ v


def keys_first(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    """Scores (B, H, keys, queries)."""
    z = k @ q.mT * q.shape[-1] ** -0.5
    if mask is not None:
        hides, low = mask.dtype == torch.bool, z.new_full((), -torch.inf)
        z = torch.where(mask.mT, z, low) if hides else z + mask.mT
    return z.softmax(-2).mT @ v


def raw(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    """Scores as they are."""
    return shown(biased(q, k, mask), mask) / k.shape[-2] @ v


SPELLINGS: dict[str, Attend] = {
    f.__name__: f
    for f in (
        sink_column,
        sink_first,
        sink_below,
        plus_one,
        plus_one_padded,
        by_hand,
        by_hand_shifted,
        base_two,
        log_weights,
        log_partition,
        sigmoid,
        sigmoid_masked,
        squared_relu,
        squared_relu_normalised,
        capped,
        capped_after,
        differential,
        differential_heads,
        keys_first,
        raw,
    )
}
"""Merge without a mask, with padding and with a learned bias; causal ones are refused."""


def linear(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    """φ(q)·(φ(k)ᵀ·v), normalised; padding is cut out of the keys."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    if mask is not None:
        k = k * mask.mT.to(k.dtype)
    return q @ (k.mT @ v) / (q @ k.sum(-2, keepdim=True).mT)


def linear_unnormalised(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor
) -> Tensor:
    q, k = q.relu(), k.relu()
    if mask is not None:
        k, v = (x.masked_fill(~mask.mT, 0) for x in (k, v))
    return torch.einsum("bhnd,bhde->bhne", q, torch.einsum("bhnd,bhne->bhde", k, v))


def efficient(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor) -> Tensor:
    """softmax(q)·(softmax over tokens of k)ᵀ·v."""
    if mask is not None:
        k = torch.where(mask.mT, k, -torch.inf)
    return q.softmax(-1) @ (k.softmax(-2).mT @ v)


LINEAR: dict[str, Attend] = {f.__name__: f for f in (linear, linear_unnormalised, efficient)}
"""They know of padding alone."""

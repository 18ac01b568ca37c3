"""What decides who merges: the bodies of ``match``, ``weigh`` and ``importance``; its scores.

Letters as in ``ops``.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pitome_fx.algorithms import ALGORITHMS, Match, Tokens
from pitome_fx.algorithms.common import joins


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """Autocast off, which would turn the float32 products of an op's body back into half ones."""
    kind = x.device.type
    # Where it is off already, a traced body stays free of nodes that switch it: no program that
    # has them can be saved.
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


@dataclass(frozen=True)
class Deciding:
    """Arguments of ``match``.

    Attributes:
        metric: (B, N, D) what tokens are compared by.
        size: (B, N), padding: (B, N) bool or None.
        k: how many tokens to remove.
        front, back: how many tokens at either end are protected.
        block, blocks: this is block i of the L of its stream.
        parameters: those of the algorithm, as JSON.
        hidden, queries, keys, importance, position: what it asked for, as in ``Tokens``.
    """

    metric: Tensor
    size: Tensor
    padding: Tensor | None
    algorithm: str
    k: int
    front: int
    back: int
    block: int = 0
    blocks: int = 1
    parameters: str = "{}"
    hidden: Tensor | None = None
    queries: Tensor | None = None
    keys: Tensor | None = None
    importance: Tensor | None = None
    position: Tensor | None = None

    @property
    def inner(self) -> slice:
        """The unprotected tokens."""
        return slice(self.front, self.metric.shape[1] - self.back)

    @property
    def all_parameters(self) -> dict[str, Any]:
        """Those given, and the others at their defaults."""
        own = ALGORITHMS[self.algorithm].parameters
        return {**{name: p.default for name, p in own.items()}, **json.loads(self.parameters)}

    def tokens(self) -> Tokens:
        """What the algorithm sees: unprotected tokens, in at least float32, without gradient."""
        inner, position = self.inner, self.position
        return Tokens(
            metric=_wide(self.metric[:, inner]),
            size=self.size.detach()[:, inner],
            padding=None if self.padding is None else self.padding[:, inner],
            k=self.k,
            block=self.block,
            blocks=self.blocks,
            hidden=None if self.hidden is None else _wide(self.hidden[:, inner]),
            queries=None if self.queries is None else _wide(self.queries[:, :, inner]),
            keys=None if self.keys is None else _wide(self.keys[:, :, inner]),
            importance=None if self.importance is None else _wide(self.importance[:, inner]),
            position=None if position is None else position[:, inner] - self.front,
        )


def _wide(x: Tensor) -> Tensor:
    # Detached, not under no_grad, which would leave nodes of its own in a traced body.
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def match(*deciding: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Decide which k of the N tokens move into the group of another; arguments as ``Deciding``.

    Each protected token keeps its place and stays alone. Returns kept (B, N'), moved (B, k) and
    target (B, k) as in ``algorithms.Match``.
    """
    how = Deciding(*deciding)
    metric, front = how.metric, how.front
    with full_precision(metric):
        found = ALGORITHMS[how.algorithm].match(how.tokens(), **how.all_parameters)
    place = torch.arange(metric.shape[1], device=metric.device).expand(metric.shape[0], -1)
    kept = torch.cat([place[:, :front], found.kept + front, place[:, how.inner.stop :]], 1)
    return kept, found.moved + front, found.target + front


def weigh(kept: Tensor, moved: Tensor, target: Tensor, *deciding: Any) -> tuple[Tensor, Tensor]:
    """The algorithm's own weights of a match: own (B, N') and mix (B, N', k), for ``combine``.

    Of protected tokens, which are alone, they are 1 and 0. Further arguments as of ``match``.
    """
    how = Deciding(*deciding)
    front, back, groups = how.front, how.back, kept.shape[1]
    found = Match(kept[:, front : groups - back] - front, moved - front, target - front)
    weights = ALGORITHMS[how.algorithm].weights
    assert weights is not None, f"{how.algorithm} weighs by size"
    with full_precision(how.metric):
        seen = how.tokens()
        own, mix = weights(seen, found, **how.all_parameters)
        if mix.dim() == 2:
            mix = joins(groups - front - back, found.target) * mix.unsqueeze(1)
    own, mix = own.to(seen.metric.dtype), mix.to(seen.metric.dtype)
    own = torch.nn.functional.pad(own, (front, back), value=1.0)
    return own, torch.nn.functional.pad(mix, (0, 0, front, back))


def scores(how: Deciding) -> Tensor | None:
    """What the algorithm ranks tokens by, (B, N), NaN for protected tokens and padding.

    None where it ranks none.
    """
    ranked_by = ALGORITHMS[how.algorithm].scores
    if ranked_by is None:
        return None
    with full_precision(how.metric):
        seen = how.tokens()
        found = ranked_by(seen, **how.all_parameters)
    if seen.padding is not None:
        found = found.masked_fill(seen.padding, torch.nan)
    return torch.nn.functional.pad(found, (how.front, how.back), value=torch.nan)


def importance(
    queries: Tensor, keys: Tensor, size: Tensor, padding: Tensor | None, front: int
) -> Tensor:
    """The attention (B, N) that the first token's query pays to each, mean over heads; in O(N·D).

    Args:
        queries: (B, H, N, D).
        keys: (B, G, N, D), H a multiple of G.
        size: (B, N), of which the logarithm is added to the scores.
        padding: (B, N) bool, tokens that get none.
        front: how many tokens are protected; if none is, the mean query asks.
    """
    with full_precision(keys):
        batch, groups, tokens, width = keys.shape
        wide = torch.promote_types(keys.dtype, torch.float32)
        queries, keys, weight = (x.detach().to(wide) for x in (queries, keys, size))
        if padding is not None:
            weight = weight.masked_fill(padding, 0)
        if front > 0:
            asking = queries[:, :, 0]
        else:
            share = weight / weight.sum(-1, keepdim=True).clamp(min=1)
            asking = (queries * share.view(batch, 1, tokens, 1)).sum(2)
        scores = asking.reshape(batch, groups, -1, width) @ keys.transpose(2, 3) * width**-0.5
        scores = scores.reshape(batch, -1, tokens) + size.to(wide).log().unsqueeze(1)
        if padding is not None:
            scores = scores.masked_fill(padding.unsqueeze(1), torch.finfo(wide).min)
        return scores.softmax(-1).mean(1)

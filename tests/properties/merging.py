"""Drawn calls of the pitome ops: one merge after another of the same tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from pitome_fx import ALGORITHMS
from tests.support.matching import call

ops = torch.ops.pitome

ENERGY = [name for name in sorted(ALGORITHMS) if name.startswith("pitome")]
"""Algorithms that order tokens by energy; ToMe splits them by their place."""


@dataclass(frozen=True)
class Merging:
    """Some merges in a row of tokens (B, N, D).

    Attributes:
        shares: of the tokens that may move, how many each merge moves.
        hidden: padding tokens of every item, before the protected ones at the end; () for no mask.
    """

    batch: int
    tokens: int
    algorithm: str
    front: int
    back: int
    shares: tuple[float, ...]
    hidden: tuple[int, ...] = ()
    seed: int = 0

    @property
    def inner(self) -> int:
        """Tokens that may merge."""
        return self.tokens - self.front - self.back

    def metric(self) -> Tensor:
        """(B, N, D), no two tokens alike."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(self.batch, self.tokens, 6, generator=generator, dtype=torch.float64)

    def padding(self) -> Tensor | None:
        """(B, N) bool."""
        if not self.hidden:
            return None
        found = torch.zeros(self.batch, self.tokens, dtype=torch.bool)
        for item, count in enumerate(self.hidden):
            end = self.tokens - self.back
            found[item, max(end - count, self.front) : end] = True
        return found


@dataclass(frozen=True)
class State:
    """Tokens after a merge.

    Attributes:
        before, size: (B, N) sizes of the tokens that merged, (B, N') of their groups.
        step: kept, moved, target.
        assign: (B, N of the start) the group of every original token.
        metric, padding: of the groups, for the next merge.
    """

    before: Tensor
    size: Tensor
    step: tuple[Tensor, Tensor, Tensor]
    assign: Tensor
    metric: Tensor
    padding: Tensor | None


@st.composite
def mergings(draw: st.DrawFn, algorithms: list[str] | None = None) -> Merging:
    """One to three merges."""
    batch = draw(st.integers(1, 3))
    front, back = draw(st.sampled_from([0, 0, 1, 2])), draw(st.sampled_from([0, 0, 1]))
    inner = draw(st.integers(2, 40))
    padded = draw(st.booleans())
    count = st.integers(0, inner)
    return Merging(
        batch=batch,
        tokens=front + inner + back,
        algorithm=draw(st.sampled_from(algorithms or sorted(ALGORITHMS))),
        front=front,
        back=back,
        shares=tuple(draw(st.lists(st.floats(0, 1), min_size=1, max_size=3))),
        hidden=tuple(draw(st.lists(count, min_size=batch, max_size=batch))) if padded else (),
        seed=draw(st.integers(0, 999)),
    )


def states(merging: Merging, metric: Tensor | None = None) -> list[State]:
    """The tokens after every merge; merges that would move nothing are left out."""
    metric = merging.metric() if metric is None else metric
    padding = merging.padding()
    size = torch.ones(metric.shape[:2], dtype=torch.float64)
    assign: Tensor | None = None
    found: list[State] = []
    for share in merging.shares:
        inner = metric.shape[1] - merging.front - merging.back
        # Of padding and of real tokens one each may be left without a partner.
        k = int(share * ((inner - (padding is not None)) // 2))
        if k < 1:
            continue
        how = (k, merging.front, merging.back)
        step = ops.match(*call(merging.algorithm, metric, size, padding, *how))
        last = ops.assignment(*step)
        assign = last if assign is None else last.gather(1, assign)
        before, size = size, ops.merge_size(size, *step)
        metric = ops.merge(metric, before, *step)
        padding = None if padding is None else padding.gather(1, step[0])
        found.append(State(before, size, step, assign, metric, padding))
    return found


def arguments(name: str, state: State, metric: Tensor, merging: Merging) -> tuple[Any, ...]:
    """A call of an op around one merge of all tokens."""
    size, (kept, moved, target) = state.before, state.step
    assign = ops.assignment(kept, moved, target)
    groups = ops.merge_size(torch.ones_like(size), kept, moved, target)
    x = metric.clone().requires_grad_()
    k, padding = moved.shape[1], merging.padding()
    deciding = call(merging.algorithm, metric, size, padding, k, merging.front, merging.back)
    weights = torch.rand(groups.shape, dtype=x.dtype), torch.rand(*groups.shape, k, dtype=x.dtype)
    weighed = ALGORITHMS[merging.algorithm].weights is not None
    return {
        "match": deciding,
        "weigh": (kept, moved, target, *(deciding if weighed else _tofu(deciding))),
        "combine": (x, kept, moved, *weights),
        "importance": (metric.unsqueeze(1), metric.unsqueeze(1), size, padding, merging.front),
        "merge_size": (size, kept, moved, target),
        "merge": (x, size, kept, moved, target),
        "assignment": (kept, moved, target),
        "unmerge": (state.metric.clone().requires_grad_(), assign),
        "pick": (x, moved),
        "project": (x, assign, groups),
        "group_logsumexp": (x, assign, groups),
    }[name]


def _tofu(deciding: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same call of an algorithm that has weights of its own."""
    metric, size, padding, _, *how = deciding
    return call("tofu", metric, size, padding, *how[:3])

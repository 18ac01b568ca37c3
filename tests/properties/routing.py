"""Tokens that take different ways: dropped for a block, sent to experts, gathered in slots.

Which tokens do may depend on their order by a score, and equal tokens have none. Where a result
depends on who of them is chosen, scores get a share by position, and tokens are rolled first: an op
that needs every token, so that two copies of one token still differ in score.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EXPERTS = 3


class Route(nn.Module):
    """x (B, N, C) or (N, B, C) → the same shape, t its token dimension."""

    def __init__(self, kind: str, tokens: int, width: int, t: int) -> None:
        super().__init__()
        self.kind, self.t, self.tokens = kind, t, tokens
        self.score = nn.Linear(width, EXPERTS)
        self.experts = nn.Parameter(torch.empty(EXPERTS, width, width))
        if kind.startswith("slots"):
            self.slots = nn.Parameter(torch.empty(1, EXPERTS, width))
        if kind.startswith("depths"):
            self.qkv = nn.Linear(width, 3 * width)
        self.kept = max(1, tokens // 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = x if self.t == 1 else x.transpose(0, 1)
        out = KINDS[self.kind](self, rows)
        return out if self.t == 1 else out.transpose(0, 1)

    def ranked(self, rows: Tensor) -> Tensor:
        """Scores (B, N, E) of rolled tokens, no two of them alike."""
        place = torch.arange(self.tokens, device=rows.device, dtype=rows.dtype)
        return self.score(rows) + place[:, None] / self.tokens


def _at(index: Tensor, rows: Tensor) -> Tensor:
    """(B, K) as an index (B, K, C) into rows."""
    return index.unsqueeze(-1).expand(-1, -1, rows.shape[-1])


def _kept_mean(route: Route, rows: Tensor) -> Tensor:
    """The best tokens are kept, and the others get their mean."""
    best = route.score(rows)[..., 0].topk(route.kept, 1).indices
    return rows + rows.gather(1, _at(best, rows)).mean(1, keepdim=True)


def _threshold(route: Route, rows: Tensor) -> Tensor:
    """Tokens below the best ones are set to zero."""
    score = route.score(rows)[..., 0]
    least = score.topk(route.kept, 1).values[:, -1:]
    return torch.where((score >= least - 1e-6).unsqueeze(-1), rows, rows.new_zeros(()))


def _depths(route: Route, rows: Tensor) -> Tensor:
    """Mixture of depths: attention among the best tokens only."""
    rows = rows.roll(1, 1)
    best = route.ranked(rows)[..., 0].topk(route.kept, 1).indices.sort(1).values
    few = rows.gather(1, _at(best, rows))
    q, k, v = (y.unsqueeze(1) for y in route.qkv(few).chunk(3, -1))
    few = few + F.scaled_dot_product_attention(q, k, v).squeeze(1)
    return rows.scatter(1, _at(best, rows), few)


def _experts_choice(route: Route, rows: Tensor) -> Tensor:
    """Every expert takes its best tokens, and adds to them."""
    rows = rows.roll(1, 1)
    batch, tokens, width = rows.shape
    scores = route.ranked(rows)
    flat, out = rows.reshape(-1, width), torch.zeros_like(rows).view(-1, width)
    first = torch.arange(batch, device=rows.device)[:, None] * tokens
    for expert in range(EXPERTS):
        weight, index = scores[..., expert].softmax(1).topk(route.kept, 1)
        index = (index + first).flatten()
        taken = flat.index_select(0, index) @ route.experts[expert]
        out = out.index_add(0, index, taken * weight.flatten().unsqueeze(-1))
    return out.view(rows.shape)


def _one_hot(route: Route, rows: Tensor) -> Tensor:
    """Every token goes to its best expert."""
    gate = route.score(rows).softmax(-1)
    best = F.one_hot(gate.argmax(-1), EXPERTS).to(rows.dtype)
    return torch.einsum("bne,bnc,ecd->bnd", best * gate, rows, route.experts)


def _soft(route: Route, rows: Tensor) -> Tensor:
    """Every token goes to its two best experts, whose weights are gathered."""
    gate, best = route.score(rows).softmax(-1).topk(2, -1)
    weights = route.experts[best]
    return torch.einsum("bnk,bnkcd,bnc->bnd", gate, weights, rows)


def _capacity(route: Route, rows: Tensor) -> Tensor:
    """Dispatch and combine by a tensor (B, N, E, K); what comes too late for its expert is lost."""
    rows = rows.roll(1, 1)
    chosen = F.one_hot(route.score(rows).argmax(-1), EXPERTS)
    place = (chosen.cumsum(1) - 1) * chosen
    fits = (place < route.kept) & (chosen > 0)
    seat = F.one_hot(place.clamp(max=route.kept - 1), route.kept)
    dispatch = (seat * fits.unsqueeze(-1)).to(rows.dtype)
    taken = torch.einsum("bnek,bnc,ecd->bekd", dispatch, rows, route.experts)
    return torch.einsum("bnek,bekd->bnd", dispatch, taken)


def _by_expert(route: Route, rows: Tensor) -> Tensor:
    """Tokens are sorted by expert, go through them in one piece each, and are sorted back."""
    order = route.score(rows).argmax(-1).argsort(dim=1, stable=True)
    taken = rows.gather(1, _at(order, rows)).cumsum(1) / route.tokens
    return torch.zeros_like(rows).scatter(1, _at(order, rows), taken)


def _slots(route: Route, rows: Tensor) -> Tensor:
    """Slot attention: slots compete for tokens, in a softmax over the slots, the queries."""
    slots = route.slots.expand(rows.shape[0], -1, -1)
    for _ in range(2):
        scores = slots @ rows.mT * rows.shape[-1] ** -0.5
        weights = scores.softmax(1) + 1e-8
        slots = slots + (weights / weights.sum(-1, keepdim=True)) @ rows
    return (rows @ slots.mT).softmax(-1) @ slots


def _slots_einsum(route: Route, rows: Tensor) -> Tensor:
    """The same weights, normalised over the tokens by a mean, and spread by their transpose."""
    slots = route.slots.expand(rows.shape[0], -1, -1)
    scores = torch.einsum("bsc,bnc->bns", slots, rows) * rows.shape[-1] ** -0.5
    weights = scores.softmax(-1)
    shares = F.normalize(weights, p=1.0, dim=1)
    slots = torch.einsum("bns,bnc->bsc", shares, rows)
    return torch.einsum("bns,bsc->bnc", weights, slots)


SAFE: dict[str, Callable[[Route, Tensor], Tensor]] = {
    "kept-mean": _kept_mean,
    "threshold": _threshold,
    "one-hot": _one_hot,
    "soft": _soft,
    "slots": _slots,
    "slots-einsum": _slots_einsum,
}
"""Kinds by which equal tokens stay equal."""

KINDS = SAFE | {
    "depths": _depths,
    "experts-choice": _experts_choice,
    "capacity": _capacity,
    "by-expert": _by_expert,
}

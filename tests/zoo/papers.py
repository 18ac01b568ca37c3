"""Attentions that papers describe: clusters, meta tokens, selected tokens, several key rates.

Small modules after the text of each paper. Their tokens are regrouped by value or by a grid, which
merging must see and refuse, or survive.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.models import Case, images, randomised
from tests.zoo.entry import Entry, fixed
from tests.zoo.hand_written import Layer

PAPERS = "From papers"
C, H, SIDE = 24, 2, 6
"""Channels, heads, and tokens along a side of the image's grid."""


def heads(x: Tensor) -> Tensor:
    """(…, N, C) as (…, H, N, D)."""
    return x.unflatten(-1, (H, -1)).transpose(-3, -2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of tokens (…, N, C) to tokens (…, M, C)."""
    out = F.scaled_dot_product_attention(heads(q), heads(k), heads(v))
    return out.transpose(-3, -2).flatten(-2)


def to_grid(x: Tensor) -> Tensor:
    return x.transpose(1, 2).unflatten(2, (SIDE, SIDE))


def to_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def picked(x: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, N, C) at index (B, K)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


class EquitableClusters(nn.Module):
    """SecViT: tokens sorted by likeness to their mean, attention within clusters of equal size."""

    def __init__(self, clusters: int = 4) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.local = nn.Conv2d(C, C, 3, padding=1, groups=C)
        self.clusters = clusters

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        likeness = F.cosine_similarity(k, k.mean(1, keepdim=True), dim=-1)
        order = likeness.argsort(-1)
        parts = (picked(y, order).unflatten(1, (self.clusters, -1)) for y in (q, k, v))
        out = picked(attend(*parts).flatten(1, 2), order.argsort(-1))
        return self.proj(out + to_tokens(self.local(to_grid(v))))


class DualCrossAttention(nn.Module):
    """LeMeViT: image tokens ask the meta tokens, and meta tokens the image tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.meta = nn.Linear(C, 3 * C), nn.Linear(C, 3 * C)
        self.mlp = nn.Linear(C, C)

    def forward(self, x: Tensor, meta: Tensor) -> tuple[Tensor, Tensor]:
        (qx, kx, vx), (qm, km, vm) = self.image(x).chunk(3, -1), self.meta(meta).chunk(3, -1)
        x, meta = x + attend(qx, km, vm), meta + attend(qm, kx, vx)
        return x + self.mlp(x), meta + self.mlp(meta)


class GatedLinearAttention(nn.Module):
    """CageViT: keys and values are mixed down to few rows; a gate on what comes back."""

    def __init__(self, tokens: int, rows: int = 6) -> None:
        super().__init__()
        self.qkv, self.gate, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C), nn.Linear(C, C)
        self.mix = nn.Linear(tokens, rows)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        k, v = (self.mix(y.transpose(1, 2)).transpose(1, 2) for y in (k, v))
        return self.proj(attend(q, k, v) * self.gate(x).sigmoid())


class DensityClusters(nn.Module):
    """ClusTR: keys and values are means of clusters around density peaks; queries stay."""

    def __init__(self, clusters: int = 9, neighbours: int = 5) -> None:
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(C, C), nn.Linear(C, 2 * C), nn.Linear(C, C)
        self.clusters, self.neighbours = clusters, neighbours

    def assignment(self, x: Tensor) -> Tensor:
        """(B, M, N) one where a token is of a cluster."""
        distance = torch.cdist(x, x)
        nearest = distance.topk(self.neighbours, -1, largest=False).values
        density = (-nearest.square().mean(-1)).exp()
        denser = density[:, None, :] > density[:, :, None]
        to_denser = distance.masked_fill(~denser, 1e3).amin(-1)
        peaks = (density * to_denser).topk(self.clusters, -1).indices
        of = picked(distance, peaks).argmin(1)
        return F.one_hot(of, self.clusters).transpose(1, 2).to(x)

    def forward(self, x: Tensor) -> Tensor:
        members = self.assignment(x)
        means = members @ x / members.sum(-1, keepdim=True).clamp_min(1)
        return self.proj(attend(self.q(x), *self.kv(means).chunk(2, -1)))


class Shunted(nn.Module):
    """Half of the heads see keys at half the resolution, the others at a third."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.proj = nn.Linear(C, C), nn.Linear(C, C)
        self.down = nn.ModuleList(nn.Conv2d(C, C, rate, rate) for rate in (2, 3))
        self.kv = nn.ModuleList(nn.Linear(C, C) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        outs = []
        for q, down, kv in zip(self.q(x).chunk(2, -1), self.down, self.kv, strict=True):
            k, v = kv(to_tokens(down(to_grid(x)))).chunk(2, -1)
            outs.append(attend(q, k, v))
        return self.proj(torch.cat(outs, -1))


class Agents(nn.Module):
    """Agent attention: pooled queries ask the tokens, and tokens ask the agents."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        agents = to_tokens(F.adaptive_avg_pool2d(to_grid(q), 3))
        return self.proj(attend(q, agents, attend(agents, k, v)))


class Paper(nn.Module):
    """A patch embedding, ``run(model, tokens)``, and a head on the mean."""

    def __init__(self, run: Callable[..., Tensor], attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, C, 8, 8)
        self.layers = nn.ModuleList(Layer(attention) for _ in range(2))
        self.run = run
        self.plain = nn.ModuleList(Layer() for _ in range(2))
        self.meta = nn.Parameter(torch.randn(1, 4, C))
        self.dual = DualCrossAttention()
        self.score, self.learner = nn.Linear(C, 1), nn.Linear(C, 14)
        self.head = nn.Linear(C, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self, to_tokens(self.patches(x))).mean(1))


def in_order(m: Paper, x: Tensor) -> Tensor:
    for layer in m.layers:
        x = layer(x)
    return x


def then_plain(m: Paper, x: Tensor) -> Tensor:
    """The paper's layers, and then two of plain attention."""
    for layer in (*m.layers, *m.plain):
        x = layer(x)
    return x


def meta_tokens(m: Paper, x: Tensor) -> Tensor:
    """LeMeViT: dual cross-attention first, then attention of all to all."""
    x, meta = m.dual(x, m.meta.expand(x.shape[0], -1, -1))
    both = torch.cat([meta, x], 1)
    for layer in m.plain:
        both = layer(both)
    return both[:, :4]


def guided(m: Paper, x: Tensor) -> Tensor:
    """CageViT: the tokens of most activation go on, the others as one weighted mean."""
    activation = m.score(x).squeeze(-1).sigmoid()
    order = activation.argsort(-1, descending=True)
    major, minor = picked(x, order[:, :17]), picked(x, order[:, 17:])
    weights = picked(activation.unsqueeze(-1), order[:, 17:]).softmax(1)
    return in_order(m, torch.cat([major, (minor * weights).sum(1, keepdim=True)], 1))


def learned_tokens(m: Paper, x: Tensor) -> Tensor:
    """TokenLearner: after one layer, few weighted sums of tokens go on."""
    x = m.plain[0](x)
    weights = m.learner(x).transpose(1, 2).softmax(-1)
    return m.plain[1](weights @ x)


def policy_kept(m: Paper, x: Tensor) -> Tensor:
    """DynamicViT: after one layer a score says per token how much of it goes on."""
    x = m.plain[0](x)
    x = x * m.score(x).sigmoid()
    return m.plain[1](x)


def paper(
    name: str, verdict: str, attention: Callable[[], nn.Module], run: Callable[..., Tensor]
) -> Entry:
    """The entry of a paper's attention in a model that runs as ``run`` says."""
    return Entry(
        PAPERS,
        f"paper-{name}",
        lambda: Case(randomised(Paper(run, attention)), (images(8 * SIDE),)),
        verdict,
    )


CROSS, SPLIT = "cross-attention", "windowed, grid or channel attention"

ENTRIES = [
    fixed(paper("secvit", f"0 of 2: {SPLIT}", EquitableClusters, in_order)),
    fixed(paper("secvit-then-plain", f"2 of 4: {SPLIT}", EquitableClusters, then_plain)),
    paper("lemevit", f"2 of 4: {CROSS}", nn.Identity, meta_tokens),
    paper("cagevit", f"0 of 2: {CROSS}", partial(GatedLinearAttention, 18), guided),
    paper("clustr", f"0 of 2: {CROSS}", DensityClusters, in_order),
    paper("clustr-then-plain", f"2 of 4: {CROSS}", DensityClusters, then_plain),
    fixed(paper("shunted", f"0 of 4: {CROSS}", Shunted, in_order)),
    fixed(paper("agents", f"0 of 4: {CROSS}", Agents, in_order)),
    paper("token-learner", f"2 of 3: {CROSS}", nn.Identity, learned_tokens),
    paper("dynamic-vit", "2 of 2", nn.Identity, policy_kept),
]

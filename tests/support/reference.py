"""The equations of the papers, token by token: slow, and independent of pitome_fx.

Nothing here imports the library. Matching works on one item of a batch: keys (T, D) → the moves
[(token, joins the group of token)], in which T counts unprotected tokens only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from tests.support.blocks import Block, Transformer

Moves = list[tuple[int, int]]
Matching = Callable[[Tensor, int, float, float], Moves]
"""(keys (T, D), k, margin, alpha) → moves."""


def cosine(x: Tensor, y: Tensor) -> float:
    """x·y / (|x|·|y|)."""
    return float(x.dot(y) / (x.norm() * y.norm()))


def by_energy(keys: Tensor, term: Callable[[float], float]) -> list[int]:
    """Tokens by decreasing energy E_i = 1/T Σ_j term(cos_ij); ties by position."""
    tokens = range(len(keys))
    energy = [sum(term(cosine(keys[i], keys[j])) for j in tokens) / len(keys) for i in tokens]
    return sorted(tokens, key=lambda i: -energy[i])


def join_most_similar(keys: Tensor, a: Sequence[int], b: Sequence[int]) -> Moves:
    """Every token of a joins the one of b that it is most similar to."""
    return [(i, max(b, key=lambda j: cosine(keys[i], keys[j]))) for i in a]


def pitome(keys: Tensor, k: int, margin: float, alpha: float) -> Moves:
    """PiToMe, Eq. 4 and the ordered split."""

    def term(x: float) -> float:
        return x if x >= margin else alpha * (math.exp(x - margin) - 1)

    order = by_energy(keys, term)[: 2 * k]
    return join_most_similar(keys, order[0::2], order[1::2])


def pitome_elu(keys: Tensor, k: int, margin: float, alpha: float) -> Moves:
    """The energy of the released vision code, ELU(cos − m)."""

    order = by_energy(keys, elu(margin, alpha))[: 2 * k]
    return join_most_similar(keys, order[0::2], order[1::2])


def elu(margin: float, alpha: float) -> Callable[[float], float]:
    """ELU(x − m)."""
    return lambda x: x - margin if x > margin else alpha * (math.exp(x - margin) - 1)


def pitome_text(keys: Tensor, k: int, margin: float, alpha: float) -> Moves:
    """The energy and the split into halves of the released text code."""
    sigma = 1 - margin

    def term(x: float) -> float:
        return math.exp(-(((1 - x) / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))

    order = by_energy(keys, term)[: 2 * k]
    return join_most_similar(keys, order[:k], order[k:])


def tome(keys: Tensor, k: int, margin: float, alpha: float) -> Moves:
    """ToMe: even positions propose, the k strongest edges to odd positions merge."""
    return best_edges(keys, range(len(keys)), k)


def best_edges(keys: Tensor, order: Sequence[int], k: int) -> Moves:
    """Every other token of an order proposes the most similar between; the k best edges merge."""
    edges = join_most_similar(keys, order[0::2], order[1::2])
    return sorted(edges, key=lambda edge: -cosine(keys[edge[0]], keys[edge[1]]))[:k]


def pitome_bsm(keys: Tensor, k: int, margin: float, alpha: float) -> Moves:
    """The energy of the released vision code orders all tokens."""
    return best_edges(keys, by_energy(keys, elu(margin, alpha)), k)


def pitome_mean(keys: Tensor, k: int, margin: float, alpha: float) -> Moves:
    """The mean cosine orders all tokens."""
    return best_edges(keys, by_energy(keys, lambda x: x), k)


MATCHINGS: dict[str, Matching] = {
    "pitome-bsm": pitome_bsm,
    "pitome-mean": pitome_mean,
    "pitome": pitome,
    "pitome-elu": pitome_elu,
    "pitome-text": pitome_text,
    "tome": tome,
}


def partition(moves: Moves, tokens: int) -> set[frozenset[int]]:
    """The groups that the moves form, each as the set of its tokens."""
    groups = {i: {i} for i in range(tokens) if i not in {a for a, _ in moves}}
    for a, b in moves:
        groups[b].add(a)
    return {frozenset(group) for group in groups.values()}


class MergingTransformer(nn.Module):
    """``blocks.Transformer`` with PiToMe in its forward, written from the paper.

    Between attention (and the norm behind it) and MLP the i-th block merges down to ⌈T·ratioⁱ⌉ of T
    tokens; the class token stays. Attention is proportional: softmax(q·kᵀ/√d + log size)·v.
    """

    def __init__(self, plain: Transformer, percent_merged: int, margin: float = 0.9) -> None:
        super().__init__()
        self.plain = plain
        self.percent_merged = percent_merged
        self.margin = margin

    def forward(self, batch: Tensor) -> Tensor:
        """batch (B, N, C); every item on its own."""
        return torch.stack([self._item(tokens) for tokens in batch])

    def _item(self, tokens: Tensor) -> Tensor:
        x = torch.cat([self.plain.cls[0], tokens])
        size = x.new_ones(len(x))
        depth = len(self.plain.blocks)
        for i, block in enumerate(self.plain.blocks):
            assert isinstance(block, Block)
            attended, keys = self._attention(block, x if block.post_norm else block.norm1(x), size)
            x = x + attended
            if block.post_norm:
                x = block.norm1(x)
            kept = Fraction(100 - self.percent_merged, 100) ** (i + 1)
            left = math.ceil(len(tokens) * kept)
            x, size = self._merge(x, keys, size, left, self.margin - self.margin * i / depth)
            x = x + block.mlp(x if block.post_norm else block.norm2(x))
            if block.post_norm:
                x = block.norm2(x)
        if self.plain.pool == "cls":
            return self.plain.head(x[0])
        weight = size[1:] / size[1:].sum()
        return self.plain.head((weight.unsqueeze(1) * x[1:]).sum(0))

    def _attention(self, block: Block, x: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """What attention adds, and the keys averaged over heads."""
        q, k, v = block.qkv(x).view(len(x), 3, block.heads, -1).permute(1, 2, 0, 3)
        scores = q @ k.mT / math.sqrt(q.shape[-1]) + size.log()
        out = scores.softmax(-1) @ v
        return block.proj(out.transpose(0, 1).flatten(1)), k.mean(0)

    def _merge(
        self, x: Tensor, keys: Tensor, size: Tensor, left: int, margin: float
    ) -> tuple[Tensor, Tensor]:
        """Size-weighted means over groups; the class token is a group of its own."""
        tokens = len(x) - 1
        moves = pitome(keys[1:], tokens - left, margin, 1.0)
        groups = [[0], *([1 + i for i in sorted(g)] for g in partition(moves, tokens))]
        merged = [
            sum(size[i] * x[i] for i in group) / sum(size[i] for i in group) for group in groups
        ]
        return torch.stack(merged), torch.stack([sum(size[i] for i in g) for g in groups])

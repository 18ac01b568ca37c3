"""Blocks by hand: residual streams and what happens between them, in every style."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.support.models import Case, randomised
from tests.zoo.adversarial import Attend
from tests.zoo.entry import Entry, fixed
from tests.zoo.hand_written import C, H, Layer, N, tokens, windows

BLOCKS = "Blocks by hand"


class ClassAttention(nn.Module):
    """Only the class token asks; it sees itself and the others (CaiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.proj, self.mlp = nn.LayerNorm(C), nn.Linear(C, C), nn.Linear(C, C)
        self.q, self.kv = nn.Linear(C, C), nn.Linear(C, 2 * C)

    def forward(self, cls: Tensor, x: Tensor) -> Tensor:
        h = self.norm(torch.cat([cls, x], 1))
        q = self.q(h[:, 0]).unflatten(-1, (1, H, -1)).transpose(1, 2)
        k, v = self.kv(h).unflatten(-1, (2, H, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        cls = cls + self.proj(out)
        return cls + self.mlp(cls)


class Model(nn.Module):
    """Three layers, run by ``run(model, *inputs)``."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.cls = nn.Parameter(torch.randn(1, 1, C))
        self.special = nn.Parameter(torch.randn(1, 4, C))
        self.position = nn.Parameter(torch.randn(1, N, C))
        self.skip = nn.Linear(2 * C, C)
        self.conv = nn.Conv2d(C, C, 3, padding=1)
        self.modulate = nn.Linear(C, 3 * C)
        self.latents = nn.Parameter(torch.randn(1, 20, C))
        self.ask = nn.ModuleList(Attend() for _ in range(2))
        self.tail = nn.ModuleList(ClassAttention() for _ in range(2))
        self.norm = nn.BatchNorm1d(C)
        self.mix = nn.Linear(N, N)
        self.head = nn.Linear(C, 5)
        self.run = run

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self, *inputs)


def entry(family: str, run: Callable[..., Any], verdict: str = "3 of 3", *more: Tensor) -> Entry:
    """The entry of a function above, named after it; ``more`` inputs beside the tokens."""
    name = "by-hand-" + run.__name__.replace("_", "-")
    return Entry(family, name, lambda: Case(randomised(Model(run)), (tokens(), *more)), verdict)


def in_order(m: Model, x: Tensor) -> Tensor:
    for layer in m.layers:
        x = layer(x)
    return m.head(x)


def with_class(m: Model, x: Tensor) -> Tensor:
    return torch.cat([m.cls.expand(x.shape[0], -1, -1), x], 1)


def parallel(m: Model, x: Tensor) -> Tensor:
    """ViT-22B: attention and MLP read the same norm."""
    for layer in m.layers:
        h = layer.norm1(x)
        x = x + layer.attn(h) + layer.mlp(h)
    return m.head(x)


def parallel_things(m: Model, x: Tensor) -> Tensor:
    """Two attentions side by side, then two MLPs, summed over a stack."""
    for a, b in ((m.layers[0], m.layers[1]), (m.layers[1], m.layers[2])):
        x = x + torch.stack([a.attn(a.norm1(x)), b.attn(b.norm1(x))]).sum(0)
        x = x + torch.stack([a.mlp(a.norm2(x)), b.mlp(b.norm2(x))]).sum(0)
    return m.head(x)


def in_place(m: Model, x: Tensor) -> Tensor:
    x = x * 1
    for layer in m.layers:
        x += layer.attn(layer.norm1(x))
        x += layer.mlp(layer.norm2(x))
    return m.head(x)


def in_place_branches(m: Model, x: Tensor) -> Tensor:
    """add_ on a clone, mul_ and relu_ on what the MLP returns."""
    y = x.clone()
    for layer in m.layers:
        y.add_(layer.attn(layer.norm1(y)))
        y = y + layer.mlp(layer.norm2(y)).mul_(0.5).relu_()
    return m.head(y)


def buffered(m: Model, x: Tensor) -> Tensor:
    """The class token and the others are written into an empty tensor."""
    h = x.new_empty(x.shape[0], N + 1, C)
    h[:, :1] = m.cls
    h[:, 1:] = x
    for layer in m.layers:
        h = layer(h)
    return m.head(h[:, 0])


def slice_written(m: Model, x: Tensor) -> Tensor:
    """In every layer the other tokens are written back into the stream."""
    h = with_class(m, x)
    for layer in m.layers:
        h = h + layer.attn(layer.norm1(h))
        h[:, 1:] += layer.mlp(layer.norm2(h[:, 1:]))
    return m.head(h[:, 0])


def checkpointed(m: Model, x: Tensor) -> Tensor:
    for layer in m.layers:
        x = checkpoint(layer, x, use_reentrant=False)
    return m.head(x)


def positions_everywhere(m: Model, x: Tensor) -> Tensor:
    """DETR: positions are added to queries and keys of every layer, not to values."""
    for layer in m.layers:
        weight, bias = layer.attn.qkv.weight.split(C), layer.attn.qkv.bias.split(C)
        q, k = (F.linear(x + m.position, weight[i], bias[i]) for i in (0, 1))
        qkv = [y.unflatten(-1, (H, -1)).transpose(1, 2) for y in (q, k, F.linear(x, weight[2]))]
        out = F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2)
        x = layer.norm1(x + layer.attn.proj(out))
        x = layer.norm2(x + layer.mlp(x))
    return m.head(x)


def long_skips(m: Model, x: Tensor) -> Tensor:
    """U-ViT: the first layer's output joins the last layer's input, channel by channel."""
    first = m.layers[0](x)
    middle = m.layers[1](first)
    return m.head(m.layers[2](m.skip(torch.cat([middle, first], -1))))


def shared_weights(m: Model, x: Tensor) -> Tensor:
    """ALBERT: one layer, four times."""
    for _ in range(4):
        x = m.layers[0](x)
    return m.head(x)


def conditioned(m: Model, x: Tensor, condition: Tensor) -> Tensor:
    """DiT: every layer is scaled, shifted and gated by a vector."""
    scale, shift, gate = m.modulate(condition)[:, None].chunk(3, -1)
    for layer in m.layers:
        x = x + gate * layer.attn(layer.norm1(x) * (1 + scale) + shift)
        x = x + gate * layer.mlp(layer.norm2(x) * (1 + scale) + shift)
    return m.head(x)


def batch_norm(m: Model, x: Tensor) -> Tensor:
    """BatchNorm over (B, C, N) in place of LayerNorm."""
    for layer in m.layers:
        x = x + layer.attn(m.norm(x.transpose(1, 2)).transpose(1, 2))
        x = x + layer.mlp(m.norm(x.mT).mT)
    return m.head(x)


def to_grid(x: Tensor) -> Tensor:
    return x.transpose(1, 2).unflatten(2, (4, 4))


def to_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def conv_positions(m: Model, x: Tensor) -> Tensor:
    """CPVT: after the first layer a convolution on the grid says where tokens are."""
    x = m.layers[0](x)
    x = x + to_tokens(m.conv(to_grid(x)))
    return m.head(m.layers[2](m.layers[1](x)))


def conv_in_mlp(m: Model, x: Tensor) -> Tensor:
    """LocalViT: a convolution on the grid between an MLP's two layers."""
    for layer in m.layers:
        x = x + layer.attn(layer.norm1(x))
        inner = layer.mlp[0](layer.norm2(x)).transpose(1, 2).unflatten(2, (4, 4))
        x = x + layer.mlp[2](to_tokens(F.avg_pool2d(inner, 3, 1, 1)))
    return m.head(x)


def conv_instead_of_mlp(m: Model, x: Tensor) -> Tensor:
    """All that follows an attention needs the grid."""
    for layer in m.layers:
        x = x + layer.attn(layer.norm1(x))
        x = x + to_tokens(m.conv(to_grid(x)))
    return x


def mixer(m: Model, x: Tensor) -> Tensor:
    """MLP-Mixer: tokens are mixed by a learned matrix."""
    for layer in m.layers:
        x = x + m.mix(layer.norm1(x).mT).mT
        x = x + layer.mlp(layer.norm2(x))
    return m.head(x)


def mixed_once(m: Model, x: Tensor) -> Tensor:
    """A learned matrix on tokens between two layers of attention."""
    x = m.layers[1](m.layers[0](x))
    return m.head(m.layers[2](x + m.mix(x.mT).mT))


def window_layers_first(m: Model, x: Tensor) -> Tensor:
    """ViTDet: windows, and one layer on all tokens."""
    for i, layer in enumerate(m.layers):
        layer.attn.attend = windows if i < 2 else layer.attn.attend
        x = layer(x)
    return m.head(x)


def window_layers_last(m: Model, x: Tensor) -> Tensor:
    for i, layer in enumerate(m.layers):
        layer.attn.attend = windows if i > 0 else layer.attn.attend
        x = layer(x)
    return m.head(x)


def tokens_dropped(m: Model, x: Tensor) -> Tensor:
    """EViT: after the first layer the ten longest tokens go on."""
    x = m.layers[0](x)
    best = x.norm(dim=-1).topk(10, 1).indices
    x = x.gather(1, best.unsqueeze(-1).expand(-1, -1, C))
    return m.head(m.layers[2](m.layers[1](x)))


SPLIT = "windowed, grid or channel attention"

ENTRIES = [
    entry(BLOCKS, in_order),
    # The last merge would come after the last MLP: only the head is left to save on.
    entry(BLOCKS, parallel, "3 of 3"),
    entry(BLOCKS, parallel_things, "4 of 4"),
    entry(BLOCKS, in_place),
    entry(BLOCKS, in_place_branches),
    fixed(entry(BLOCKS, buffered)),
    entry(BLOCKS, slice_written, "0 of 3: an in-place write"),
    entry(BLOCKS, checkpointed),
    fixed(entry(BLOCKS, positions_everywhere)),
    entry(BLOCKS, long_skips),
    entry(BLOCKS, shared_weights, "4 of 4"),
    entry(BLOCKS, conditioned, "3 of 3", torch.randn(2, C)),
    entry(BLOCKS, batch_norm),
    fixed(entry(BLOCKS, conv_positions)),
    fixed(entry(BLOCKS, conv_in_mlp)),
    fixed(entry(BLOCKS, conv_instead_of_mlp, "0 of 3: not profitable")),
    fixed(entry(BLOCKS, mixer, "no attention")),
    fixed(entry(BLOCKS, mixed_once)),
    fixed(entry(BLOCKS, window_layers_first, f"1 of 3: {SPLIT}")),
    fixed(entry(BLOCKS, window_layers_last, f"1 of 3: {SPLIT}")),
    entry(BLOCKS, tokens_dropped),
]

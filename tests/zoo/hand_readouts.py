"""Readouts by hand: special tokens, taps, pooling, class attention, latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.zoo.entry import fixed
from tests.zoo.hand_models import Model, entry, to_grid, with_class
from tests.zoo.hand_written import C

READOUT, LATENTS = "Readouts by hand", "Latents and class attention"
CROSS = "cross-attention"


def at_the_end(m: Model, x: Tensor) -> Tensor:
    """Four learned tokens behind the others are read (YOLOS)."""
    h = torch.cat([x, m.special.expand(x.shape[0], -1, -1)], 1)
    for layer in m.layers:
        h = layer(h)
    return m.head(h[:, -4:])


def last_token(m: Model, x: Tensor) -> Tensor:
    for layer in m.layers:
        x = layer(x)
    return m.head(x[:, -1])


def both_ends(m: Model, x: Tensor) -> Tensor:
    """A class token in front, registers behind, the others pooled."""
    h = torch.cat([with_class(m, x), m.special.expand(x.shape[0], -1, -1)], 1)
    for layer in m.layers:
        h = layer(h)
    return m.head(h[:, 0] + h[:, 1:-4].mean(1))


def in_the_middle(m: Model, x: Tensor) -> Tensor:
    """One ordinary token is read."""
    for layer in m.layers:
        x = layer(x)
    return m.head(x[:, 7])


def class_attention(m: Model, x: Tensor) -> Tensor:
    """CaiT: two layers of class attention behind the others."""
    for layer in m.layers:
        x = layer(x)
    cls = m.cls.expand(x.shape[0], -1, -1)
    for layer in m.tail:
        cls = layer(cls, x)
    return m.head(cls[:, 0])


def taps(m: Model, x: Tensor) -> list[Tensor]:
    """DPT: what every layer returns, as a grid."""
    grids = []
    for layer in m.layers:
        x = layer(x)
        grids.append(m.conv(to_grid(x)))
    return grids


def hidden_states(m: Model, x: Tensor) -> dict[str, Any]:
    """Every layer's tokens and their mean."""
    states = [x]
    for layer in m.layers:
        states.append(layer(states[-1]))
    return {"states": tuple(states), "pooled": states[-1].mean(1), "count": x.shape[1]}


def perceiver(m: Model, x: Tensor) -> Tensor:
    """Latents that ask the inputs, and then attend to themselves."""
    latents = m.latents.expand(x.shape[0], -1, -1)
    for ask in m.ask:
        latents = ask(latents, x)
        for layer in m.layers[:2]:
            latents = layer(latents)
    return m.head(latents.mean(1))


def branches(m: Model, x: Tensor, y: Tensor) -> Tensor:
    """CrossViT: two branches whose class tokens ask the other branch's tokens."""
    a, b = with_class(m, x), with_class(m, y)
    for i in range(2):
        a, b = m.layers[i](a), m.layers[i + 1](b)
        of_a = m.tail[0](a[:, :1], b[:, 1:])
        of_b = m.tail[1](b[:, :1], a[:, 1:])
        a, b = torch.cat([of_a, a[:, 1:]], 1), torch.cat([of_b, b[:, 1:]], 1)
    return m.head(a[:, 0] + b[:, 0])


def attention_pooling(m: Model, x: Tensor) -> Tensor:
    """A learned query pools the tokens (SigLIP's MAP head)."""
    for layer in m.layers:
        x = layer(x)
    return m.head(m.ask[0](m.cls.expand(x.shape[0], -1, -1), x)[:, 0])


ENTRIES = [
    entry(READOUT, at_the_end),
    entry(READOUT, last_token),
    entry(READOUT, both_ends),
    entry(READOUT, in_the_middle),
    fixed(entry(READOUT, taps)),
    entry(READOUT, hidden_states),
    entry(LATENTS, class_attention, f"3 of 5: {CROSS}"),
    entry(LATENTS, perceiver, f"4 of 6: {CROSS}"),
    entry(LATENTS, branches, f"4 of 8: {CROSS}", torch.randn(2, 12, C)),
    entry(LATENTS, attention_pooling, f"3 of 4: {CROSS}"),
]

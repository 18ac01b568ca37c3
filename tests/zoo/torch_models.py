"""torch.nn's transformers and torchvision's image models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.models import DEPTH, Case, encoder, images, randomised
from tests.support.torchvision_shim import define_missing_ops
from tests.zoo.entry import Entry, fixed

ENCODERS, DECODERS = "Encoders (torch.nn)", "Encoder–decoder and decoder (torch.nn)"
ATTENTION, VISION = "MultiheadAttention (torch.nn)", "torchvision"

MASK = "structured attention mask"


def square(tokens: int) -> Tensor:
    """The causal mask of torch.nn: −∞ above the diagonal."""
    return nn.Transformer.generate_square_subsequent_mask(tokens)


def hidden(tokens: int) -> Tensor:
    """True for padding: the last ten tokens of the second item."""
    mask = torch.zeros(2, tokens, dtype=torch.bool)
    mask[1, -10:] = True
    return mask


def called(case: Callable[[], Case], **kwargs: Any) -> Case:
    """The case, called with further arguments."""
    made = case()
    return Case(made.model, made.args, {**made.kwargs, **kwargs}, made.merges, made.tokens)


def nested() -> Case:
    """With enable_nested_tensor as by default, and padding."""
    layer = nn.TransformerEncoderLayer(48, 4, 96, batch_first=True)
    model = randomised(nn.TransformerEncoder(layer, DEPTH))
    return Case(model, (torch.randn(2, 40, 48),), {"src_key_padding_mask": hidden(40)})


class Captioner(nn.Module):
    """torch.nn's decoder on an encoder's tokens."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        shape = {"d_model": 48, "nhead": 3, "dim_feedforward": 96, "batch_first": batch_first}
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**shape), 2)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**shape), 2)

    def forward(self, source: Tensor, target: Tensor, **masks: Any) -> Tensor:
        return self.decoder(target, self.encoder(source), **masks)


def captioner(length: int = 12, **masks: Any) -> Case:
    inputs = torch.randn(2, 40, 48), torch.randn(2, length, 48)
    return Case(randomised(Captioner()), inputs, masks)


def decoder(**masks: Any) -> Case:
    """A decoder alone: memory is given."""
    layer = nn.TransformerDecoderLayer(48, 3, 96, batch_first=True)
    model = randomised(nn.TransformerDecoder(layer, 2))
    return Case(model, (torch.randn(2, 20, 48), torch.randn(2, 20, 48)), masks)


def transformer(batch_first: bool = True, **masks: Any) -> Case:
    """nn.Transformer, as many target as source tokens."""
    model = nn.Transformer(48, 3, 2, 2, 96, batch_first=batch_first)
    source, target = torch.randn(2, 2, 20, 48).unbind(0)
    if not batch_first:
        source, target = source.transpose(0, 1), target.transpose(0, 1)
    return Case(randomised(model), (source, target), masks)


class Attending(nn.Module):
    """Two pre-norm blocks around nn.MultiheadAttention, called with ``how``."""

    def __init__(self, batch_first: bool = True, separate: bool = False, **how: Any) -> None:
        super().__init__()
        self.how = how
        self.norms = nn.ModuleList(nn.LayerNorm(48) for _ in range(2))
        # A vdim of its own gives queries, keys and values a matrix each.
        vdim = 40 if separate else None
        self.attentions = nn.ModuleList(
            nn.MultiheadAttention(48, 3, batch_first=batch_first, vdim=vdim) for _ in range(2)
        )
        self.mlps = nn.ModuleList(nn.Linear(48, 48) for _ in range(2))

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Any:
        seen = []
        for norm, attention, mlp in zip(self.norms, self.attentions, self.mlps, strict=True):
            h = norm(x)
            out, weights = attention(
                h, h, h[..., : attention.vdim], key_padding_mask=hidden, **self.how
            )
            x = x + out
            x = x + F.gelu(mlp(x))
            seen.append(weights)
        return x if seen[0] is None else (x, seen)


def attending(padded: bool = False, batch_first: bool = True, **how: Any) -> Case:
    x = torch.randn(2, 20, 48)
    args = (x if batch_first else x.transpose(0, 1), *([hidden(20)] if padded else []))
    return Case(randomised(Attending(batch_first, **how)), args)


class Detector(nn.Module):
    """DETR: a convolution's grid, an encoder, and learned queries in torch.nn's decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.body = nn.Conv2d(3, 48, 8, 8), Captioner()
        self.queries = nn.Parameter(torch.randn(1, 10, 48))
        self.head = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        source = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.body(source, self.queries.expand(x.shape[0], -1, -1)))


def vision(name: str, size: int = 64, **shape: Any) -> Case:
    """A torchvision class by name."""
    define_missing_ops()
    import torchvision

    model = getattr(torchvision.models, name)(**shape, num_classes=7)
    return Case(randomised(model), (images(size),))


VIT = {
    "image_size": 64,
    "patch_size": 8,
    "num_layers": 3,
    "num_heads": 3,
    "hidden_dim": 48,
    "mlp_dim": 96,
}
SWIN = {
    "patch_size": [4, 4],
    "embed_dim": 24,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": [4, 4],
}
MAXVIT = {
    "input_size": (64, 64),
    "stem_channels": 8,
    "partition_size": 4,
    "block_channels": [16],
    "block_layers": [1],
    "head_dim": 8,
    "stochastic_depth_prob": 0.0,
}
CROSS, SPLIT = "cross-attention", "windowed, grid or channel attention"

# What a decoder merges is unmerged at its next cross-attention: two batches meet there.
THIN = "4 of 6: cross-attention"

sequence = partial(encoder, batch_first=False)


def encoders(name: str, build: Callable[[], Case], verdict: str = "3 of 3", dim: int = 0) -> Entry:
    return Entry(ENCODERS, f"encoder-{name}", build, verdict, batch_dim=dim)


def decoders(name: str, build: Callable[[], Case], verdict: str, dim: int = 0) -> Entry:
    return Entry(DECODERS, name, build, verdict, batch_dim=dim)


def masked(**masks: Any) -> Callable[[], Case]:
    """An encoder called with masks; unless is_causal is given, torch.nn reads their values."""
    return lambda: called(encoder, **{"is_causal": False, **masks})


def mha(name: str, padded: bool = False, dim: int = 0, **how: Any) -> Entry:
    return Entry(ATTENTION, name, partial(attending, padded, **how), "2 of 2", batch_dim=dim)


# The mask of shifted windows is written in place, so that nothing is known of its values.
MASKED = f"structured attention mask; {SPLIT}"

ENTRIES = [
    Entry(ENCODERS, "encoder", encoder, "3 of 3"),
    encoders("pre-norm", partial(encoder, norm_first=True)),
    encoders("gelu-no-bias", partial(encoder, activation="gelu", bias=False)),
    encoders("sequence-first", sequence, dim=1),
    encoders("padded", partial(encoder, padded=True)),
    encoders("padded-pre-norm", partial(encoder, True, norm_first=True)),
    Entry(ENCODERS, "encoder-padded-sequence-first", partial(sequence, True), "3 of 3", None),
    encoders("padded-nested", nested),
    encoders("is-causal", masked(mask=square(40), is_causal=True), "0 of 3: causal attention"),
    encoders("float-mask", masked(mask=square(40)), f"0 of 3: {MASK}"),
    encoders("bool-mask", masked(mask=square(40) < 0), f"0 of 3: {MASK}"),
    encoders(
        "mask-and-padding",
        masked(mask=square(40) < 0, src_key_padding_mask=hidden(40)),
        f"0 of 3: {MASK}",
    ),
    decoders("captioner", captioner, f"4 of 6: {CROSS}"),
    decoders(
        "captioner-causal",
        lambda: captioner(tgt_mask=square(12), tgt_is_causal=False),
        f"2 of 6: {CROSS}; {MASK}",
    ),
    decoders(
        "captioner-is-causal",
        lambda: captioner(tgt_mask=square(12), tgt_is_causal=True),
        f"2 of 6: causal attention; {CROSS}",
    ),
    # torch.nn reads the mask's values; Dynamo breaks there, and runs the decoder untraced.
    decoders("captioner-compares-mask", lambda: captioner(tgt_mask=square(12)), "2 of 2"),
    decoders(
        "captioner-memory-padded",
        lambda: captioner(20, memory_key_padding_mask=hidden(40)),
        THIN,
    ),
    decoders(
        "decoder-causal",
        lambda: decoder(tgt_mask=square(20), tgt_is_causal=False),
        f"0 of 4: {CROSS}; {MASK}",
    ),
    decoders("transformer", transformer, THIN),
    decoders("transformer-sequence-first", partial(transformer, False), THIN, 1),
    decoders(
        "transformer-causal",
        lambda: transformer(tgt_mask=square(20), tgt_is_causal=False),
        f"2 of 6: {CROSS}; {MASK}",
    ),
    decoders(
        "transformer-padded",
        lambda: transformer(src_key_padding_mask=hidden(20), memory_key_padding_mask=hidden(20)),
        THIN,
    ),
    # Before the first cross-attention the learned queries are those of every image.
    decoders(
        "detr-like",
        lambda: Case(randomised(Detector()), (images(48),)),
        f"3 of 6: {CROSS}; its tokens are the same for every item so far",
    ),
    mha("mha"),
    mha("mha-without-weights", need_weights=False),
    mha("mha-every-head", average_attn_weights=False),
    mha("mha-padded", True),
    mha("mha-padded-without-weights", True, need_weights=False),
    mha("mha-sequence-first", batch_first=False, dim=1),
    mha("mha-separate-weights", separate=True, need_weights=False),
    fixed(Entry(VISION, "torchvision-vit", partial(vision, "VisionTransformer", **VIT), "3 of 3")),
    Entry(
        VISION, "torchvision-swin", partial(vision, "SwinTransformer", **SWIN), f"0 of 4: {MASKED}"
    ),
    # Its residual stream is windowed as the attention is: every window merges on its own.
    fixed(Entry(VISION, "torchvision-maxvit", partial(vision, "MaxVit", **MAXVIT), "2 of 2")),
]

"""diffusers: denoisers with random weights, as small as their architectures admit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.support.models import DEPTH, Case, randomised
from tests.zoo.entry import Entry

TRANSFORMERS = "Diffusion transformers (diffusers)"
CONVOLUTIONS = "Attention between convolutions (diffusers)"

SMALL: dict[str, Any] = {
    "num_layers": DEPTH,
    "num_attention_heads": 3,
    "attention_head_dim": 16,
}


def denoiser(name: str, inputs: Callable[[], Mapping[str, Any]], **settings: Any) -> Case:
    """A model of diffusers by the name of its class."""
    import diffusers

    return Case(randomised(getattr(diffusers, name)(**settings)), kwargs=inputs())


def entry(
    family: str,
    name: str,
    verdict: str,
    inputs: Callable[[], Mapping[str, Any]],
    **settings: Any,
) -> Entry:
    return Entry(family, f"diffusers {name}", partial(denoiser, name, inputs, **settings), verdict)


def times() -> Tensor:
    return torch.tensor([3, 400])


def of_class() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(2, 4, 12, 12),
        "timestep": times(),
        "class_labels": torch.tensor([1, 5]),
    }


def of_text() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(2, 4, 12, 12),
        "timestep": times(),
        "encoder_hidden_states": torch.randn(2, 10, 24),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def unet() -> dict[str, Any]:
    return {
        "sample": torch.randn(2, 4, 8, 8),
        "timestep": times(),
        "encoder_hidden_states": torch.randn(2, 10, 24),
    }


def joint() -> dict[str, Any]:
    """Latents and texts that attend to one another, as SD3 takes them."""
    return {
        "hidden_states": torch.randn(2, 4, 12, 12),
        "timestep": times(),
        "encoder_hidden_states": torch.randn(2, 10, 24),
        "pooled_projections": torch.randn(2, 24),
    }


def packed() -> dict[str, Any]:
    """Latents and texts that attend to one another, as Flux takes them.

    Of fewer latents merging would pay at one of two sizes alone.
    """
    return {
        "hidden_states": torch.randn(2, 64, 16),
        "timestep": torch.rand(2),
        "encoder_hidden_states": torch.randn(2, 10, 24),
        "pooled_projections": torch.randn(2, 24),
        "img_ids": torch.randn(64, 3),
        "txt_ids": torch.zeros(10, 3),
    }


def sample() -> dict[str, Any]:
    return {"sample": torch.randn(2, 3, 16, 16)}


DIT = SMALL | {"sample_size": 12, "patch_size": 2, "in_channels": 4}
PIXART = DIT | {"out_channels": 4, "cross_attention_dim": 48, "caption_channels": 24}
SD3 = DIT | {
    "out_channels": 4,
    "joint_attention_dim": 24,
    "caption_projection_dim": 48,
    "pooled_projection_dim": 24,
    "pos_embed_max_size": 12,
}
FLUX = SMALL | {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 24,
    "axes_dims_rope": (4, 6, 6),
}
UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (48, 48),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 3,
    "cross_attention_dim": 24,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
VAE: dict[str, Any] = {"block_out_channels": (24,), "norm_num_groups": 4, "sample_size": 16}

NO_STREAM = "no residual connection carries these tokens past the attention"

ENTRIES = [
    entry(
        TRANSFORMERS,
        "DiTTransformer2DModel",
        "3 of 3",
        of_class,
        **DIT,
        norm_num_groups=4,
        num_embeds_ada_norm=10,
    ),
    entry(TRANSFORMERS, "PixArtTransformer2DModel", "3 of 6: cross-attention", of_text, **PIXART),
    entry(TRANSFORMERS, "SD3Transformer2DModel", "0 of 3: joint attention", joint, **SD3),
    entry(
        TRANSFORMERS,
        "FluxTransformer2DModel",
        "2 of 4: joint attention",
        packed,
        **FLUX,
    ),
    entry(CONVOLUTIONS, "UNet2DConditionModel", "4 of 8: cross-attention", unet, **UNET),
    entry(CONVOLUTIONS, "AutoencoderKL", f"0 of 2: {NO_STREAM}", sample, **VAE),
]

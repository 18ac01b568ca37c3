"""transformers on images, with random weights and configurations written out here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.support.models import DEPTH, Case, images, randomised, token_ids
from tests.zoo.entry import Call, Entry, fixed, resized

PLAIN = "Plain vision transformers (transformers)"
POSITIONS = "Vision transformers with rotary or relative positions (transformers)"
TAPS = "Every token is read: dense prediction, detection, masked images (transformers)"
REGROUPED = "Windowed, hierarchical and regrouped tokens (transformers)"
SEVERAL = "Latents, and images with texts (transformers)"

Inputs = Callable[[], Mapping[str, Any]]

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 3,
    "intermediate_size": 96,
}
PATCHES = SMALL | {"image_size": 48, "patch_size": 8}
FRAMES = SMALL | {"image_size": 32, "num_frames": 4, "patch_size": 8}
WORDS = SMALL | {"vocab_size": 99}
SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def hf(name: str, config: str, inputs: Inputs, **settings: Any) -> Case:
    """A model of transformers, by the names of its class and of its configuration's."""
    import transformers

    made = getattr(transformers, config)(**settings)
    return Case(randomised(getattr(transformers, name)(made)), kwargs=inputs())


INTERPOLATED = partial(resized, interpolate_pos_encoding=True)


def noise(**shapes: tuple[int, ...]) -> Inputs:
    """Named float inputs of the given shapes, for a batch of two."""
    return lambda: {name: torch.randn(2, *shape) for name, shape in shapes.items()}


def entry(
    family: str,
    name: str,
    verdict: str,
    inputs: Inputs,
    config: str = "",
    resize: Callable[[Case], Call] = resized,
    **settings: Any,
) -> Entry:
    """A model by its class's name; its configuration's follows from it, unless it is given."""
    made_of = config or name.removesuffix("Model") + "Config"
    build = partial(hf, name, made_of, inputs, **settings)
    return Entry(family, f"transformers {name}", build, verdict, resize=resize)


def image(name: str, verdict: str = "3 of 3", family: str = PLAIN, **changes: Any) -> Entry:
    """A model on images, with the customary names of its settings."""
    return entry(family, name, verdict, pixels(48), **PATCHES | changes)


def regrouped(name: str, verdict: str, size: int = 64, **settings: Any) -> Entry:
    """A model whose tokens are windows, grids or several resolutions."""
    return entry(REGROUPED, name, verdict, pixels(size), **settings)


def pixels(size: int) -> Inputs:
    return noise(pixel_values=(3, size, size))


def patched() -> dict[str, Tensor]:
    """Patches of two images of unlike shapes, the second one padded."""
    mask = torch.ones(2, 36, dtype=torch.long)
    mask[1, 24:] = 0
    shapes = torch.tensor([[6, 6], [4, 6]])
    return {
        "pixel_values": torch.randn(2, 36, 192),
        "pixel_attention_mask": mask,
        "spatial_shapes": shapes,
    }


def captioned() -> dict[str, Tensor]:
    """Images, each with a text, some of them padded."""
    return {**token_ids(), "pixel_values": images(48, 3)}


def depth_anything() -> Case:
    """A DINOv2 backbone under a decoder of convolutions."""
    import transformers

    stages = [f"stage{i}" for i in range(1, 5)]
    layers = PATCHES | {"num_hidden_layers": 4}
    backbone = transformers.Dinov2Config(**layers, out_features=stages, reshape_hidden_states=False)
    settings = NECK | {"head_hidden_size": 8, "reassemble_hidden_size": 48}
    return hf(
        "DepthAnythingForDepthEstimation",
        "DepthAnythingConfig",
        pixels(48),
        backbone_config=backbone,
        **settings,
    )


def detr() -> Case:
    """A transformer with an encoder and a decoder, on the features of a small ResNet."""
    import transformers

    backbone = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], out_features=["stage2"]
    )
    halves = {
        f"{half}_{what}": value
        for half in ("encoder", "decoder")
        for what, value in (("layers", DEPTH - 1), ("attention_heads", 3), ("ffn_dim", 96))
    }
    settings = {"backbone_config": backbone, "d_model": 48, "num_queries": 10, **halves}
    return hf("DetrForObjectDetection", "DetrConfig", pixels(48), **settings)


def pair(name: str, config: str, inputs: Inputs, **settings: Any) -> Case:
    """A model with a tower for images and one for texts."""
    towers = {
        "vision_config": PATCHES | {"projection_dim": 48},
        "text_config": WORDS | SPECIAL | {"projection_dim": 48, **settings},
    }
    return hf(name, config, inputs, **towers)


NECK: dict[str, Any] = {
    "neck_hidden_sizes": [16, 16, 16, 16],
    "fusion_hidden_size": 16,
    "patch_size": 8,
}
TWO_STAGES: dict[str, Any] = {
    "num_encoder_blocks": 2,
    "depths": (1, 2),
    "hidden_sizes": (24, 48),
    "num_attention_heads": (1, 3),
    "patch_sizes": (4, 2),
    "strides": (4, 2),
    "mlp_ratios": (2, 2),
}
YOLOS = {"config": "YolosConfig", "image_size": [48, 48], "num_detection_tokens": 10}
DPT = NECK | {"config": "DPTConfig", "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3]}
MASKED = PATCHES | {
    "mask_ratio": 0.25,
    "decoder_num_attention_heads": 3,
    "decoder_hidden_size": 48,
    "decoder_num_hidden_layers": 2,
    "decoder_intermediate_size": 96,
}
LATENTS: dict[str, Any] = {
    "d_model": 24,
    "d_latents": 48,
    "num_latents": 32,
    "num_self_attends_per_block": DEPTH,
    "num_self_attention_heads": 3,
    "num_cross_attention_heads": 3,
}
SWIN = {"image_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
HIERA: dict[str, Any] = {
    "image_size": (128, 128),
    "embed_dim": 24,
    "depths": (1, 1, 1, 3),
    "num_heads": (1, 2, 2, 2),
}
MOBILE: dict[str, Any] = {
    "image_size": 128,
    "hidden_sizes": (48, 64, 64),
    "neck_hidden_sizes": (8, 8, 16, 16, 16, 24, 32),
    "num_attention_heads": 2,
}
LEVIT: dict[str, Any] = {
    "image_size": 128,
    "hidden_sizes": (32, 48, 64),
    "num_attention_heads": (2, 3, 4),
    "depths": (2, 2, 2),
    "key_dim": (8, 8, 8),
}
SAM: dict[str, Any] = PATCHES | {
    "window_size": 4,
    "global_attn_indexes": (1, 2),
    "output_channels": 16,
}
QFORMER = WORDS | {"encoder_hidden_size": 24}
QUERIES = noise(query_embeds=(32, 48), encoder_hidden_states=(36, 24))
FILM = noise(pixel_values=(4, 3, 32, 32))
SAME = "its tokens are the same for every item so far"
WINDOWS = "windowed, grid or channel attention"

ENTRIES = [
    image("ViTModel", resize=INTERPOLATED),
    image("DeiTModel", resize=INTERPOLATED),
    image("ViTMSNModel", resize=INTERPOLATED),
    image("IJepaModel", resize=INTERPOLATED),
    image("Dinov2Model"),
    image("Dinov2WithRegistersModel"),
    image("CLIPVisionModel", resize=INTERPOLATED),
    image("SiglipVisionModel", "3 of 4: cross-attention", resize=INTERPOLATED),
    image("BlipVisionModel", resize=INTERPOLATED),
    image("OwlViTVisionModel", resize=INTERPOLATED),
    fixed(image("Aimv2VisionModel", "3 of 4: cross-attention")),
    fixed(
        entry(
            PLAIN,
            "Siglip2VisionModel",
            "3 of 4: cross-attention",
            patched,
            **SMALL,
            patch_size=8,
            num_patches=36,
        )
    ),
    fixed(entry(PLAIN, "VideoMAEModel", "3 of 3", FILM, **FRAMES)),
    fixed(entry(PLAIN, "VivitModel", "3 of 3", FILM, **FRAMES, tubelet_size=[2, 8, 8])),
    image("DINOv3ViTModel", family=POSITIONS),
    image("BeitModel", family=POSITIONS, use_relative_position_bias=True),
    image("Data2VecVisionModel", family=POSITIONS, use_shared_relative_position_bias=True),
    image("YolosForObjectDetection", family=TAPS, **YOLOS),
    image("DPTForDepthEstimation", "4 of 4", TAPS, **DPT),
    Entry(TAPS, "transformers DepthAnythingForDepthEstimation", depth_anything, "4 of 4"),
    fixed(
        entry(
            TAPS,
            "ViTMAEForPreTraining",
            "5 of 5",
            noise(pixel_values=(3, 48, 48), noise=(36,)),
            "ViTMAEConfig",
            **MASKED,
        )
    ),
    Entry(TAPS, "transformers DetrForObjectDetection", detr, f"3 of 6: cross-attention; {SAME}"),
    entry(
        REGROUPED,
        "TimesformerModel",
        f"0 of 6: no residual connection carries these tokens past the attention; {WINDOWS}",
        FILM,
        **FRAMES,
    ),
    fixed(
        regrouped(
            "PvtModel",
            "2 of 3: cross-attention",
            **TWO_STAGES,
            image_size=64,
            sequence_reduction_ratios=(2, 1),
        )
    ),
    regrouped(
        "SegformerModel", "0 of 3: cross-attention; not profitable", **TWO_STAGES, sr_ratios=(2, 1)
    ),
    regrouped("SwinModel", f"0 of 4: {WINDOWS}", **SWIN),
    regrouped("Swinv2Model", f"0 of 4: {WINDOWS}", **SWIN),
    regrouped(
        "HieraModel", f"2 of 6: cross-attention; {WINDOWS}", 128, resize=INTERPOLATED, **HIERA
    ),
    fixed(regrouped("SamVisionModel", "0 of 3: structured attention mask", 48, **SAM)),
    regrouped("MobileViTModel", "6 of 9: too few tokens", 128, **MOBILE),
    fixed(regrouped("LevitModel", "4 of 8: cross-attention; too few tokens", 128, **LEVIT)),
    entry(SEVERAL, "PerceiverModel", "3 of 4: cross-attention", noise(inputs=(48, 24)), **LATENTS),
    entry(SEVERAL, "Blip2QFormerModel", "3 of 5: cross-attention", QUERIES, **QFORMER),
    Entry(
        SEVERAL,
        "transformers CLIPModel",
        partial(pair, "CLIPModel", "CLIPConfig", captioned),
        "3 of 6: causal attention mask",
    ),
    Entry(
        SEVERAL,
        "transformers BlipForImageTextRetrieval",
        partial(
            pair,
            "BlipForImageTextRetrieval",
            "BlipConfig",
            captioned,
            encoder_hidden_size=48,
            sep_token_id=2,
        ),
        "6 of 9: cross-attention",
    ),
]

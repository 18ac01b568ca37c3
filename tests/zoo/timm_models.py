"""timm: image models, with configurations as small as they admit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from tests.support.models import DEPTH, Case, images, randomised, timm_vit
from tests.zoo.entry import Entry, fixed, resized

PLAIN = "Plain vision transformers (timm)"
ROTARY = "Vision transformers with rotary or relative positions (timm)"
LATE = "Class attention, several branches, global attention in late stages (timm)"
WINDOWED = "Windowed, hierarchical and regrouped tokens (timm)"
OTHER = "Without softmax attention over tokens (timm)"

WINDOWS = "windowed, grid or channel attention"
REGROUPED = "no residual connection carries these tokens past the attention"
SWIN = f"2 of 4: structured attention mask; {WINDOWS}"


def model(name: str, size: int = 64, **changes: Any) -> Case:
    """A timm model on images of the given size."""
    import timm

    return Case(randomised(timm.create_model(name, num_classes=7, **changes)), (images(size),))


def sized(name: str, size: int = 64, **changes: Any) -> Case:
    """A timm model that is built for one image size."""
    return model(name, size, img_size=size, **changes)


def vit(name: str, verdict: str = "3 of 3", family: str = PLAIN, **changes: Any) -> Entry:
    """A model that takes the arguments of timm's VisionTransformer."""
    return fixed(Entry(family, f"timm {name}", partial(timm_vit, name, **changes), verdict))


def like(entry_name: str, verdict: str = "3 of 3", **changes: Any) -> Entry:
    """A variant of timm's plain ViT under a name of its own."""
    return fixed(Entry(PLAIN, f"timm {entry_name}", partial(timm_vit, **changes), verdict))


def changing(name: str, family: str = PLAIN) -> Entry:
    """A model that interpolates its positions to the size of the image."""
    build = partial(timm_vit, name, dynamic_img_size=True)
    return Entry(family, f"timm {name}, image sizes that change", build, "3 of 3")


def rotary(name: str, verdict: str = "3 of 3", **changes: Any) -> Entry:
    return vit(name, verdict, ROTARY, **changes)


def of_any_size(entry: Entry) -> Entry:
    """The entry of a model that takes other image sizes without being told to."""
    return replace(entry, resize=resized)


def late(name: str, verdict: str, size: int = 64, **changes: Any) -> Entry:
    return Entry(LATE, f"timm {name}", partial(model, name, size, **changes), verdict)


def window(name: str, verdict: str, size: int = 64, **changes: Any) -> Entry:
    return Entry(WINDOWED, f"timm {name}", partial(model, name, size, **changes), verdict)


def other(name: str, verdict: str = "no attention", size: int = 64, **changes: Any) -> Entry:
    return Entry(OTHER, f"timm {name}", partial(model, name, size, **changes), verdict)


SMALL = {"depth": DEPTH, "embed_dim": 48, "num_heads": 3}
FEW_STAGES = {"img_size": 64, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}

ENTRIES = [
    like("vit"),
    changing("vit_tiny_patch16_224"),
    changing("deit3_small_patch16_224"),
    changing("vit_small_patch14_reg4_dinov2"),
    changing("eva02_base_patch14_224", ROTARY),
    changing("vit_small_patch16_rope_224", ROTARY),
    like("vit, layer scale", init_values=0.3),
    like("vit, q/k norm", qk_norm=True),
    like("vit, mean pooling", global_pool="avg", class_token=False),
    like("vit, attention pooling", "3 of 4: cross-attention", global_pool="map"),
    like("vit, no head (features)", num_classes=0, global_pool=""),
    vit("vit_small_patch16_18x2_224", "6 of 6"),
    vit("vit_base_patch16_xp_224", "2 of 3: not profitable"),
    vit("vit_little_patch16_reg1_gap_256"),
    vit("vit_so150m_patch16_reg4_gap_256"),
    vit("deit_tiny_patch16_224"),
    fixed(
        Entry(
            PLAIN,
            "timm deit_tiny_distilled_patch16_224",
            partial(timm_vit, "deit_tiny_distilled_patch16_224"),
            "3 of 3",
        )
    ),
    vit("deit3_small_patch16_224"),
    vit("vit_small_patch14_reg4_dinov2"),
    vit("vit_base_patch16_siglip_224", "3 of 4: cross-attention"),
    vit("vit_base_patch16_clip_224"),
    vit("flexivit_small"),
    vit("aimv2_large_patch14_224"),
    vit("beit3_base_patch16_224"),
    vit("eva_giant_patch14_224"),
    Entry(
        PLAIN,
        "timm naflexvit_base_patch16_gap",
        partial(model, "naflexvit_base_patch16_gap", 96, **SMALL),
        "3 of 3",
    ),
    fixed(
        Entry(
            PLAIN,
            "timm vit_tiny_r_s16_p8_224",
            partial(sized, "vit_tiny_r_s16_p8_224", 192, **SMALL),
            "3 of 3",
        )
    ),
    rotary("beit_base_patch16_224"),
    rotary("beitv2_base_patch16_224"),
    fixed(
        Entry(
            ROTARY,
            "timm eva02_base_patch14_224",
            partial(timm_vit, "eva02_base_patch14_224"),
            "3 of 3",
        )
    ),
    rotary("eva02_large_patch14_clip_224"),
    rotary("vit_small_patch16_rope_224"),
    rotary("vit_small_patch16_rope_mixed_224"),
    rotary("vit_small_patch16_rope_ape_224"),
    rotary("vit_base_patch16_rope_reg1_gap_256"),
    of_any_size(rotary("vit_small_patch16_dinov3")),
    of_any_size(rotary("vit_small_patch16_dinov3_qkvb")),
    rotary("vit_pe_core_tiny_patch16_384", "3 of 4: cross-attention"),
    rotary("vit_pe_spatial_tiny_patch16_512"),
    rotary("vit_relpos_small_patch16_224"),
    rotary("vit_relpos_base_patch16_cls_224"),
    rotary("vit_relpos_base_patch16_clsgap_224"),
    rotary("vit_srelpos_small_patch16_224"),
    fixed(late("cait_xxs24_224", "3 of 5: cross-attention", img_size=64, patch_size=8, **SMALL)),
    late("crossvit_tiny_240", "15 of 21: cross-attention", 240),
    fixed(late("pit_ti_224", "11 of 12: not profitable", 128, img_size=128)),
    fixed(
        late(
            "hiera_tiny_224",
            "2 of 6: cross-attention; windowed, grid or channel attention",
            128,
            img_size=(128, 128),
            embed_dim=24,
            stages=(1, 1, 3, 1),
        )
    ),
    late("caformer_s18", "12 of 12", 128),
    fixed(late("coatnet_nano_rw_224", f"0 of 9: {REGROUPED}", 128, img_size=128)),
    fixed(late("efficientformer_l1", "1 of 1", 224)),
    late(
        "samvit_base_patch16_224",
        "0 of 3: structured attention mask",
        img_size=64,
        patch_size=8,
        window_size=4,
        global_attn_indexes=(1, 2),
        **SMALL,
    ),
    fixed(
        window(
            "swin_tiny_patch4_window7_224",
            SWIN,
            56,
            window_size=7,
            **FEW_STAGES | {"img_size": 56},
        )
    ),
    fixed(
        window(
            "swinv2_tiny_window8_256",
            SWIN,
            window_size=8,
            **FEW_STAGES,
        )
    ),
    fixed(
        window(
            "swinv2_cr_tiny_224",
            SWIN,
            window_size=8,
            **FEW_STAGES,
        )
    ),
    fixed(window("maxvit_rmlp_pico_rw_256", f"0 of 22: {REGROUPED}; {WINDOWS}", img_size=64)),
    fixed(
        window(
            "gcvit_xxtiny",
            f"0 of 12: cross-attention; {REGROUPED}; {WINDOWS}",
            img_size=64,
            window_size=(8, 8, 2, 2),
        )
    ),
    fixed(window("nest_tiny", "8 of 12: too few tokens", 64, img_size=64)),
    window("pvt_v2_b0", "0 of 8: cross-attention; too few tokens"),
    window(
        "twins_svt_small",
        f"0 of 18: cross-attention; {REGROUPED}; too few tokens; {WINDOWS}",
        img_size=64,
    ),
    fixed(window("levit_128s", "5 of 11: cross-attention; too few tokens", 128, img_size=128)),
    fixed(window("coat_tiny", "18 of 26: too few tokens", img_size=64)),
    fixed(window("mvitv2_tiny", "0 of 10: structured attention mask", img_size=64)),
    fixed(
        window(
            "volo_d1_224",
            f"0 of 20: cross-attention; {REGROUPED}; unknown attention",
            64,
            img_size=64,
        )
    ),
    window("mobilevit_xxs", "6 of 9: too few tokens", 128),
    window("tiny_vit_5m_224", f"0 of 10: {REGROUPED}; {WINDOWS}"),
    fixed(window("tnt_s_legacy_patch16_224", "4 of 4", 48, img_size=48, depth=2)),
    window("edgenext_xx_small", f"0 of 3: {WINDOWS}"),
    other("xcit_nano_12_p8_224", f"0 of 14: cross-attention; {WINDOWS}", img_size=64),
    fixed(other("mixer_s32_224", img_size=64)),
    fixed(other("gmlp_ti16_224", img_size=64)),
    fixed(other("resmlp_12_224", img_size=64)),
    other("poolformer_s12"),
    other("focalnet_tiny_srf"),
    other("mobilevitv2_050", "no attention", 128),
]

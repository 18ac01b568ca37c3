"""Small models of many makes, each with inputs to call it on.

Every table maps a name to a builder of a ``Case``. Weights are random; whatever a model
initialises to zero (biases, position tables, layer scale) is randomised too, because a term that
is zero cannot show that it was lost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

DEPTH = 3


@dataclass(frozen=True)
class Case:
    """A model in eval mode and a call of it.

    Attributes:
        merges: number of blocks that may merge.
        tokens: unprotected tokens at the first block (BERT reads its first one at the end).
        padded: are some of them padding?
    """

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    merges: int = DEPTH
    tokens: int = 0
    padded: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters."""
        return next(self.model.parameters()).dtype

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> Case:
        """The case in another floating type, and on another device if one is given."""

        def moved(leaf: Tensor) -> Tensor:
            return leaf.to(device, dtype if leaf.is_floating_point() else leaf.dtype)

        args, kwargs = pytree.tree_map_only(Tensor, moved, (self.args, dict(self.kwargs)))
        model = self.model.to(device, dtype)
        return dataclasses.replace(self, model=model, args=args, kwargs=kwargs)


Builder = Callable[[], Case]


def randomised(model: nn.Module) -> nn.Module:
    """The model in eval mode, with noise on every parameter."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def images(size: int, batch: int = 2) -> Tensor:
    """(batch, 3, size, size) of noise."""
    return torch.randn(batch, 3, size, size)


def timm_vit(name: str = "vit_tiny_patch16_224", tokens: int = 36, **changes: Any) -> Case:
    """A timm model with patches of 8 pixels, three heads and 16 channels in each."""
    import timm

    side = 8 * int(tokens**0.5)
    small = {"depth": DEPTH, "embed_dim": 48, "num_heads": 3, "num_classes": 7}
    small |= {"img_size": side, "patch_size": 8}
    model = timm.create_model(name, pretrained=False, **small | changes)
    return Case(randomised(model), (images(side),), tokens=tokens)


TIMM: dict[str, Builder] = {
    "vit": timm_vit,
    "vit-layer-scale": lambda: timm_vit(init_values=0.3),
    "vit-qk-norm": lambda: timm_vit(qk_norm=True),
    "vit-mean-pool": lambda: timm_vit(global_pool="avg", class_token=False),
    "vit-parallel": lambda: timm_vit("vit_small_patch16_18x2_224"),
    "deit": lambda: timm_vit("deit_tiny_patch16_224"),
    "deit-distilled": lambda: timm_vit("deit_tiny_distilled_patch16_224"),
    "deit3": lambda: timm_vit("deit3_small_patch16_224"),
    "dinov2-registers": lambda: timm_vit("vit_small_patch14_reg4_dinov2"),
    "siglip": lambda: timm_vit("vit_base_patch16_siglip_224"),
    "beit": lambda: timm_vit("beit_base_patch16_224"),
    "eva02": lambda: timm_vit("eva02_tiny_patch14_224"),
}


def token_ids(tokens: int = 32) -> dict[str, Tensor]:
    """A batch of three texts, the second and third of them padded."""
    mask = torch.ones(3, tokens, dtype=torch.long)
    mask[1, 20:] = 0
    mask[2, 7:] = 0
    return {"input_ids": torch.randint(0, 99, (3, tokens)), "attention_mask": mask}


def bert(head: str = "BertModel", attention: str = "sdpa", padded: bool = True) -> Case:
    """A Hugging Face BERT."""
    import transformers

    config = transformers.BertConfig(
        hidden_size=48,
        num_hidden_layers=DEPTH,
        num_attention_heads=3,
        intermediate_size=96,
        vocab_size=99,
        attn_implementation=attention,
    )
    model = randomised(getattr(transformers, head)(config))
    inputs = token_ids()
    if not padded:
        del inputs["attention_mask"]
    return Case(model, kwargs=inputs, tokens=31, padded=padded)


def hf_vit() -> Case:
    """A Hugging Face ViT."""
    import transformers

    config = transformers.ViTConfig(
        hidden_size=48,
        num_hidden_layers=DEPTH,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=48,
        patch_size=8,
    )
    return Case(randomised(transformers.ViTModel(config)), (images(48),), tokens=36)


HUGGING_FACE: dict[str, Builder] = {
    "hf-vit": hf_vit,
    "bert": bert,
    "bert-unpadded": lambda: bert(padded=False),
    "bert-eager": lambda: bert(attention="eager"),
    "bert-classifier": lambda: bert("BertForSequenceClassification"),
}


def encoder(padded: bool = False, batch_first: bool = True, **changes: Any) -> Case:
    """torch.nn.TransformerEncoder on 40 tokens."""
    layer = nn.TransformerEncoderLayer(48, 3, 96, batch_first=batch_first, **changes)
    model = randomised(nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False))
    tokens = torch.randn(2, 40, 48)
    hidden = torch.zeros(2, 40, dtype=torch.bool)
    hidden[1, 25:] = True
    kwargs = {"src_key_padding_mask": hidden} if padded else {}
    args = (tokens if batch_first else tokens.transpose(0, 1),)
    return Case(model, args, kwargs, tokens=40, padded=padded)


TORCH: dict[str, Builder] = {
    "encoder": encoder,
    "encoder-pre-norm": lambda: encoder(norm_first=True),
    "encoder-sequence-first": lambda: encoder(batch_first=False),
    "encoder-padded": lambda: encoder(padded=True),
    "encoder-padded-sequence-first": lambda: encoder(padded=True, batch_first=False),
}

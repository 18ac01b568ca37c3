"""Compile a merged model ahead of time and run the package where pitome_fx is not installed.

    python examples/to_aotinductor.py

Prints the size of the package, and how far its outputs are from those of eager PyTorch (rounding,
about 1e-6 of the largest logit). A second Python process loads and runs it; importing pitome_fx is
made impossible there. Takes a minute or so, nearly all of it Inductor's compile time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

# A script sees its own folder only; `examples` and `benchmarks` lie beside each other.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pitome_fx
import pitome_fx.deploy
from examples.digits_vit import DIGITS, VisionTransformer, ViTConfig

ELSEWHERE = """
import sys
sys.modules["pitome_fx"] = None  # whoever imports it now gets an ImportError
import torch

model = torch._inductor.aoti_load_package("model.pt2")
torch.save(model(torch.load("images.pt")), "logits.pt")
print("loaded and run in a process that cannot import pitome_fx")
"""


@torch.no_grad()
def main(config: ViTConfig = DIGITS) -> None:
    """Transform, compile, load in another process, compare."""
    torch.manual_seed(0)
    model = VisionTransformer(config).eval()
    images = torch.randn(4, config.channels, config.image, config.image)

    merged = pitome_fx.transform(torch.export.export(model, (images,)), ratio=0.9)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pitome_fx.deploy.save(merged, folder / "model.pt2", to="pt2")
        print(f"model.pt2: {(folder / 'model.pt2').stat().st_size / 1e6:.1f} MB")
        torch.save(images, folder / "images.pt")
        subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=folder, check=True)
        found = torch.load(folder / "logits.pt")
    wanted = merged.module()(images)
    error = (found - wanted).abs().max() / wanted.abs().max()
    print(f"the package differs from PyTorch by {error:.1e} of the largest logit")


if __name__ == "__main__":
    main()

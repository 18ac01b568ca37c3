"""Write a merged model as ONNX and run it with ONNX Runtime.

    python examples/to_onnx.py          (pip install 'pitome-fx[onnx]')

Prints the size of the file, how far ONNX Runtime is from eager PyTorch on a batch that the export
has not seen (rounding, about 1e-6 of the largest logit), and the time of the dense and the merged
model, both in ONNX Runtime. Expect little speed-up of so small a model on a CPU. The ViT has random
weights. Takes about half a minute.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from torch.export import Dim, ExportedProgram

# A script sees its own folder only; `examples` and `benchmarks` lie beside each other.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pitome_fx
import pitome_fx.deploy
from examples.digits_vit import VisionTransformer, ViTConfig
from pitome_fx.measuring.timing import interleaved

CONFIG = ViTConfig(image=224, patch=16, channels=3, width=192, depth=6, heads=3, classes=1000)


def session_of(program: ExportedProgram, file: Path) -> onnxruntime.InferenceSession:
    """Write a program and open it in ONNX Runtime."""
    pitome_fx.deploy.save(program, file, to="onnx")
    print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@torch.no_grad()
def main(config: ViTConfig = CONFIG, rounds: int = 10) -> None:
    """Export for any batch size, run on another batch than that of the export, and compare."""
    torch.manual_seed(0)
    model = VisionTransformer(config).eval()
    shape = (config.channels, config.image, config.image)

    # The dense program, with a batch of any size; then the same on merged tokens.
    any_batch = {"images": {0: Dim("batch")}}
    dense = torch.export.export(model, (torch.randn(2, *shape),), dynamic_shapes=any_batch)
    merged = pitome_fx.transform(dense, ratio=0.9)

    with tempfile.TemporaryDirectory() as folder:
        sessions = {
            "dense": session_of(dense, Path(folder) / "dense.onnx"),
            "merged": session_of(merged, Path(folder) / "merged.onnx"),
        }
    images = torch.randn(3, *shape)
    feed = {"images": images.numpy()}
    for name, program in (("dense", dense), ("merged", merged)):
        wanted = program.module()(images)
        found = torch.from_numpy(sessions[name].run(None, feed)[0])
        error = (found - wanted).abs().max() / wanted.abs().max()
        print(f"{name}: ONNX Runtime differs from PyTorch by {error:.1e} of the largest logit")
    times = interleaved(
        {name: partial(run.run, None, feed) for name, run in sessions.items()}, rounds=rounds
    )
    for name in sessions:
        print(f"{name:<7} {times.spread(name).show(1e3, ' ms', digits=1)}")
    print(f"speed-up {times.speedup('dense', 'merged').show()} [quartiles]")


if __name__ == "__main__":
    main()

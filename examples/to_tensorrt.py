"""Lower a merged model with TensorRT.

    python examples/to_tensorrt.py      (pip install 'pitome-fx[tensorrt]', on an NVIDIA GPU)

Prints how far the engine is from eager PyTorch, and the time of a call. Where there is no GPU or no
torch_tensorrt, it prints the one sentence that says what is missing, and ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch._dynamo.exc import BackendCompilerFailed

# A script sees its own folder only; `examples` and `benchmarks` lie beside each other.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pitome_fx
from examples.digits_vit import DIGITS, VisionTransformer, ViTConfig
from pitome_fx.measuring.timing import interleaved

OPTIONS = {"ratio": 0.9, "lowering": "tensorrt", "strict": True}


@torch.no_grad()
def main(config: ViTConfig = DIGITS) -> None:
    """Compile with lowering='tensorrt', or say why that cannot be done here."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = VisionTransformer(config).eval().to(device)
    images = torch.randn(8, config.channels, config.image, config.image, device=device)

    compiled = torch.compile(model, backend="pitome", options=OPTIONS)

    try:
        found = compiled(images)
    except (BackendCompilerFailed, pitome_fx.PitomeError) as error:
        why = getattr(error, "inner_exception", error)
        if not isinstance(why, pitome_fx.PitomeError):
            raise
        print(f"TensorRT cannot run here: {why}")
        return
    wanted = pitome_fx.transform(model, (images,), ratio=OPTIONS["ratio"])(images)
    error = (found - wanted).abs().max() / wanted.abs().max()
    print(f"the engine differs from PyTorch by {error:.1e} of the largest logit")
    times = interleaved({"merged": lambda: compiled(images)}, device=device)
    print(f"{times.spread('merged').show(1e3, ' ms')} for a batch of {len(images)}")


if __name__ == "__main__":
    main()

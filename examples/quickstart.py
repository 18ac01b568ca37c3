"""One argument of torch.compile: the same model on merged tokens.

    python examples/quickstart.py

Prints what merges in each block (4 of 4), how far the outputs of a ViT with random weights move,
and the time of a call without and with merging, both lowered by Inductor. Expect 60 % of the FLOPs,
which is the default, and at this size a speed-up below what that promises. Takes a minute or two,
nearly all of it Inductor's compile time.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import torch

# A script sees its own folder only; `examples` and `benchmarks` lie beside each other.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pitome_fx
from examples.digits_vit import VisionTransformer, ViTConfig
from pitome_fx.measuring.timing import interleaved

CONFIG = ViTConfig(image=224, patch=16, channels=3, width=192, depth=4, heads=3, classes=1000)


@torch.no_grad()
def main(lowering: str = "inductor", config: ViTConfig = CONFIG, rounds: int = 10) -> None:
    """Compile the model twice, compare what it computes and how long it takes."""
    torch.manual_seed(0)
    model = VisionTransformer(config).eval()
    images = torch.randn(4, config.channels, config.image, config.image)

    dense = torch.compile(model, backend=lowering)
    merged = torch.compile(model, backend="pitome", options={"lowering": lowering})

    print(pitome_fx.explain(model, (images,)))
    wanted, found = dense(images), merged(images)
    print(f"outputs: {[*found.shape]}, as the dense model's {[*wanted.shape]}")
    moved = (found - wanted).norm() / wanted.norm()
    print(f"merging moved them by {moved:.1%} of their length (random weights, noise for images)")
    times = interleaved(
        {"dense": partial(dense, images), "merged": partial(merged, images)}, rounds=rounds
    )
    for name in ("dense", "merged"):
        print(f"{name:<7} {times.spread(name).show(1e3, ' ms', digits=1)}")
    print(f"speed-up {times.speedup('dense', 'merged').show()} [quartiles]")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lowering", default="inductor", help="or another Dynamo backend")
    main(parser.parse_args().lowering)

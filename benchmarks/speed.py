"""Speed of merged against dense, both lowered by Inductor, beside the FLOPs they take.

The question is how much of the saved arithmetic arrives as time: efficiency is the measured
speed-up over the FLOPs ratio. Weights are random and images are noise; neither changes the work.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

# A script sees its own folder only; `examples` and `benchmarks` lie beside each other.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pitome_fx
from examples.digits_vit import VIT_B16, VIT_L16, VIT_S16, VisionTransformer
from pitome_fx.measuring.timing import Spread, Timings, header, interleaved, machine

MODELS = {"vit_small": VIT_S16, "vit_base": VIT_B16, "vit_large": VIT_L16}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GOAL = 0.95

console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    """Measure one configuration and print it."""
    args = parse_args()
    torch.manual_seed(0)
    config, device, dtype = MODELS[args.model], torch.device(args.device), DTYPES[args.dtype]
    console.print(header(device))
    console.print(
        f"\n{args.model} @{config.image}, batch {args.batch}, ratio {args.ratio}, {dtype}"
    )
    model = VisionTransformer(config).eval().to(device, dtype)
    shape = (args.batch, config.channels, config.image, config.image)
    images = torch.randn(shape, device=device, dtype=dtype)
    with torch.no_grad():
        flops = count_both(model, images, args.ratio)
        timings = measure(model, images, args)
    show(flops, timings)
    if args.json:
        args.json.write_text(json.dumps(record(args, flops, timings), indent=2) + "\n")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="vit_base")
    parser.add_argument("--batch", type=int, default=4, help="images per call (default 4)")
    parser.add_argument("--ratio", type=float, default=0.9, help="kept per block (default 0.9)")
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds (default 30)")
    parser.add_argument("--warmup", type=int, default=3, help="untimed rounds (default 3)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1 …")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    return parser.parse_args()


def count_flops(call: Callable[[Tensor], object], images: Tensor) -> int:
    """FLOPs of one call by PyTorch's counter: matrix products, convolutions and attention."""
    # The counter does not know the fused CPU kernel; taken apart, attention counts everywhere.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call(images)
    return counter.get_total_flops()


def count_both(model: nn.Module, images: Tensor, ratio: float) -> dict[str, int]:
    """FLOPs of the dense model and of the rewritten graph, matching and merging included.

    The report's own count stands beside it: the two are made independently and should agree.
    """
    report = pitome_fx.explain(model, (images,), ratio=ratio)
    merged = pitome_fx.transform(model, (images,), ratio=ratio)
    return {
        "dense": count_flops(model, images),
        "merged": count_flops(merged, images),
        "reported_dense": report.flops_before,
        "reported_merged": report.flops_after,
    }


def measure(model: nn.Module, images: Tensor, args: argparse.Namespace) -> Timings:
    """Compile dense and merged, then time them in turn within one run."""
    options = {"ratio": args.ratio, "strict": True}
    compiled = {
        "dense": torch.compile(model),
        "merged": torch.compile(model, backend="pitome", options=options),
    }
    for name, call in compiled.items():
        start = time.perf_counter()
        with console.status(f"compiling {name}"):
            call(images)
        console.print(f"first {name} call: {time.perf_counter() - start:.1f} s")
    calls = {name: partial(call, images) for name, call in compiled.items()}
    with console.status("timing") as status:
        return interleaved(
            calls,
            rounds=args.rounds,
            warmup=args.warmup,
            device=images.device,
            on_round=lambda done: status.update(f"round {done} of {args.rounds}"),
        )


def efficiency(flops: dict[str, int], timings: Timings) -> Spread:
    """Speed-up over FLOPs ratio, with the spread of the speed-up."""
    speedup, ratio = timings.speedup("dense", "merged"), flops["dense"] / flops["merged"]
    return Spread(speedup.low / ratio, speedup.median / ratio, speedup.high / ratio)


def show(flops: dict[str, int], timings: Timings) -> None:
    """The result, one line per quantity; medians [quartiles]."""
    for name in ("dense", "merged"):
        console.print(
            f"{name:<12}{timings.spread(name).show(1e3, ' ms', 1)}, {flops[name] / 1e9:.2f} GFLOPs "
            f"(report: {flops[f'reported_{name}'] / 1e9:.2f})"
        )
    reached = efficiency(flops, timings)
    verdict = "reached" if reached.median >= GOAL else "missed"
    console.print(
        f"speed-up    {timings.speedup('dense', 'merged').show(unit='×', digits=3)} "
        f"(of medians {timings.ratio_of_medians('dense', 'merged'):.3f}×)\n"
        f"FLOPs ratio {flops['dense'] / flops['merged']:.3f}×\n"
        f"efficiency  {reached.show(digits=3)}, goal {GOAL} {verdict}"
    )


def record(args: argparse.Namespace, flops: dict[str, int], timings: Timings) -> dict[str, Any]:
    """The result for a file: times in seconds, every round."""
    asked = {key: value for key, value in vars(args).items() if key != "json"}
    return {
        "machine": machine(args.device),
        "asked": asked,
        "flops": flops,
        "seconds": dict(timings.seconds),
        "speedup": vars(timings.speedup("dense", "merged")),
        "efficiency": vars(efficiency(flops, timings)),
    }


if __name__ == "__main__":
    main()

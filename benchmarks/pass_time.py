"""Time of the pass itself, capture to rewrite and without lowering: first in a process and warm.

Every model is measured in a fresh process, since imports and caches make the first pass slower.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

# A script sees its own folder only; `examples` and `benchmarks` lie beside each other.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pitome_fx
from examples.digits_vit import VIT_B16, VIT_L16, VIT_S16, VisionTransformer, ViTConfig
from pitome_fx.measuring.timing import header, machine

BATCH = 4
DEPTHS = (6, 12, 24, 48)
STAGES = ("capture", "detect", "plan", "rewrite")

console = Console(highlight=False)
Seconds = dict[str, float]


@dataclass(frozen=True)
class Case:
    """A model to pass over, and the goals in seconds for the first pass and for warm ones."""

    config: ViTConfig
    ratio: float
    first_goal: float | None = None
    warm_goal: float | None = None


# At this ratio 48 blocks still have tokens to merge, so that every block costs a full rewrite.
# The pass computes no values: the smaller width only spares memory and the making of weights.
CASES = {
    "ViT-B/16": Case(VIT_B16, 0.9, first_goal=2.0, warm_goal=0.6),
    "ViT-L/16": Case(VIT_L16, 0.9, warm_goal=2.5),
    **{f"depth {depth}": Case(replace(VIT_S16, depth=depth), 0.97) for depth in DEPTHS},
}


def main() -> None:
    """Measure every case in a process of its own and print what each stage took."""
    args = parse_args()
    if args.worker:
        print(json.dumps(passes(CASES[args.worker], args.warm)))
        return
    console.print(header())
    measured = {}
    for name in CASES:
        with console.status(name):
            measured[name] = in_fresh_process(name, args.warm)
    show(measured)
    show_goals(measured)
    show_growth(measured)
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "seconds": measured}, indent=2))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--warm", type=int, default=5, help="warm passes per model (default 5)")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--worker", choices=CASES, help=argparse.SUPPRESS)
    return parser.parse_args()


def passes(case: Case, warm: int) -> list[Seconds]:
    """Seconds per stage of 1 + `warm` passes over the same random model, in this process."""
    torch.manual_seed(0)
    config = case.config
    model = VisionTransformer(config).eval()
    images = torch.randn(BATCH, config.channels, config.image, config.image)
    seconds = []
    for _ in range(1 + warm):
        # Else Dynamo would answer from its cache and no pass would run.
        torch.compiler.reset()
        with torch.no_grad():
            report = pitome_fx.explain(model, (images,), ratio=case.ratio, strict=True)
        seconds.append(dict(report.seconds))
    return seconds


def in_fresh_process(name: str, warm: int) -> list[Seconds]:
    """`passes` in a new interpreter; its errors appear as they are."""
    command = [sys.executable, __file__, "--worker", name, "--warm", str(warm)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def total(seconds: Seconds) -> float:
    """Capture to rewrite."""
    return sum(seconds[stage] for stage in STAGES)


def warm_median(runs: list[Seconds]) -> float:
    """Median total of all passes but the first."""
    return statistics.median(total(run) for run in runs[1:])


def show(measured: dict[str, list[Seconds]]) -> None:
    """Seconds of the first pass and of the warm ones, and the warm median of each stage."""
    table = Table("model", "blocks", "first", "warm", *STAGES, title="Seconds, capture to rewrite")
    for name, runs in measured.items():
        stages = [statistics.median(run[stage] for run in runs[1:]) for stage in STAGES]
        row = [total(runs[0]), warm_median(runs), *stages]
        table.add_row(name, str(CASES[name].config.depth), *(f"{s:.2f}" for s in row))
    console.print(table)
    console.print("Warm, and its stages: medians over the passes after the first.")


def show_goals(measured: dict[str, list[Seconds]]) -> None:
    """The measured times that have a goal, beside it; warm with the range of the passes."""
    for name, runs in measured.items():
        case, warm = CASES[name], [total(run) for run in runs[1:]]
        span = f" [{min(warm):.2f}–{max(warm):.2f}]"
        show_goal(f"{name}, first", total(runs[0]), "", case.first_goal)
        show_goal(f"{name}, warm", warm_median(runs), span, case.warm_goal)


def show_goal(what: str, seconds: float, span: str, goal: float | None) -> None:
    """One line, where there is a goal."""
    if goal is not None:
        verdict = "reached" if seconds <= goal else "missed"
        console.print(f"{what}: {seconds:.2f} s{span}, goal ≤ {goal} s {verdict}", markup=False)


def show_growth(measured: dict[str, list[Seconds]]) -> None:
    """How the warm time grows with depth: the exponent p of seconds ∝ depth^p, 1 if linear."""
    warm = {depth: warm_median(measured[f"depth {depth}"]) for depth in DEPTHS}
    per_block = ", ".join(f"{1e3 * s / depth:.0f} ms at {depth}" for depth, s in warm.items())
    x, y = [math.log(depth) for depth in warm], [math.log(s) for s in warm.values()]
    exponent = statistics.linear_regression(x, y).slope
    console.print(f"Warm time per block: {per_block}.")
    console.print(f"It grows as depth to the power of {exponent:.2f} (1 is linear).")


if __name__ == "__main__":
    main()

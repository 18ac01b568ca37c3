"""Speed against accuracy: the study's linear probe, and the speed-up measured on this machine.

python -m benchmarks.study.picture [--measure] [--output docs/pictures/study.png]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import pitome_fx
from benchmarks.study.models import Dino
from pitome_fx.viz.canvas import INK, font, hue, inked, picture

HERE = Path(__file__).parent
RESULTS, SPEEDS = HERE / "results.jsonl", HERE / "speeds.json"
SHOWN = {
    "pitome-mean": "hidden",
    "tome": "keys",
    "pitome": "keys",
    "random": "keys",
}
"""Algorithms, with what they compare tokens by when the user names nothing."""
BUDGETS = (0.8, 0.6, 0.45)
ITEMS, SIDE = 4, 168


def main() -> None:
    """Draw the picture; measure first where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", action="store_true", help="measure the speed-ups anew")
    parser.add_argument("--rounds", type=int, default=10, help="of timing (default: 10)")
    parser.add_argument("--output", type=Path, default=Path("docs/pictures/study.png"))
    args = parser.parse_args()
    if args.measure:
        SPEEDS.write_text(json.dumps(measured(args.rounds), indent=1) + "\n")
    draw(json.loads(SPEEDS.read_text()), accuracies()).savefig(args.output)
    print(f"written  {args.output}")


def measured(rounds: int) -> dict[str, Any]:
    """Speed-up of every algorithm at every budget, in one interleaved run."""
    model = Dino((SIDE // 14) ** 2).eval()
    images = torch.randn(ITEMS, 3, SIDE, SIDE)
    sets = [
        {"algorithm": algorithm, "metric": metric, "flops": flops}
        for algorithm, metric in SHOWN.items()
        for flops in BUDGETS
    ]
    found = pitome_fx.benchmark(model, images, sets, rounds=rounds)
    print(found)
    runs = zip(sets, found.runs[1:], strict=True)
    return {
        "machine": dict(found.machine),
        "speedups": [{**own, "speedup": run.speedup.median} for own, run in runs],
    }


def accuracies() -> dict[tuple[str, float], float]:
    """Accuracy of the linear probe by algorithm and budget, mean of both halves of the images."""
    found = {}
    for line in RESULTS.read_text().splitlines():
        record = json.loads(line)
        options = dict(record["options"])
        budget, algorithm = options.pop("flops", 1.0), options.pop("algorithm", "dense")
        known = record["task"] == "fashion" and "probe/choose" in record["figures"]
        if known and options in ({}, {"metric": SHOWN.get(algorithm)}):
            figures = record["figures"]
            found[algorithm, budget] = (figures["probe/choose"] + figures["probe/confirm"]) / 2
    return found


def draw(speeds: dict[str, Any], accuracy: dict[tuple[str, float], float]) -> Figure:
    """Accuracy over speed-up, a line for each algorithm, from dense on."""
    figure = picture(7.5, 4.2)
    axes: Axes = figure.subplots()
    dense = accuracy["dense", 1.0]
    for number, algorithm in enumerate(SHOWN):
        rows = [row for row in speeds["speedups"] if row["algorithm"] == algorithm]
        points = [(1.0, dense), *((r["speedup"], accuracy[algorithm, r["flops"]]) for r in rows)]
        name = f"{algorithm} (default)" if algorithm == "pitome-mean" else algorithm
        axes.plot(*zip(*points, strict=True), marker="o", color=hue(number), label=name)
    axes.axhline(dense, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel(f"speed-up, {speeds['machine']['cpu']}", **font())
    axes.set_ylabel("accuracy of a linear probe, %", **font())
    axes.legend(frameon=False, labelcolor=INK)
    inked(axes)
    return figure


if __name__ == "__main__":
    main()

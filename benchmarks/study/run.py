"""What each algorithm costs in accuracy, for its FLOPs: ``make study``.

Every figure is kept as soon as it is there; a run that was interrupted goes on where it stopped.

    python -m benchmarks.study.run [--quick] [--device cuda] [--tasks text …]
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.study.report import write
from benchmarks.study.sources import FOLDER, Missing
from benchmarks.study.tasks import TASKS, Task
from pitome_fx import ALGORITHMS, PitomeError
from pitome_fx.measuring.timing import header

BUDGETS = {"photographs": (0.8, 0.6, 0.45), "fashion": (0.8, 0.6, 0.45), "text": (0.85, 0.7, 0.5)}
BEST = ("pitome-mean", "pitome-bsm", "tome", "pitome")
"""Tried in more ways than one."""

Record = dict[str, Any]


def main() -> int:
    """Measure what is missing, and write the tables."""
    args = parse_args()
    warnings.simplefilter("ignore")
    console = Console(stderr=True)
    device = torch.device(args.device)
    console.print(header(device))
    kept = Kept(args.results)
    for name in args.tasks:
        try:
            task = TASKS[name](device)
        except Missing as lack:
            console.print(f"{name} is left out: {lack}")
            continue
        measure(task, list(configurations(name, args.quick)), kept, console)
    write(kept.records, args.output, header(device))
    console.print(f"tables in {args.output}")
    return 0


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1 …")
    parser.add_argument("--quick", action="store_true", help="two budgets of the cheap tasks")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, help="default: all")
    parser.add_argument("--results", type=Path, default=FOLDER / "results.jsonl")
    parser.add_argument("--output", type=Path, default=FOLDER / "study.md")
    args = parser.parse_args()
    args.tasks = args.tasks or [name for name in TASKS if not (args.quick and name == "fashion")]
    return args


def configurations(task: str, quick: bool) -> Iterator[Record]:
    """The options to try; dense first."""
    yield {}
    budgets = BUDGETS[task][1:] if quick else BUDGETS[task]
    for flops, name in itertools.product(budgets, ALGORITHMS):
        own = ALGORITHMS[name].metric
        for metric in [own] if quick else ["keys", "hidden"]:
            yield {"algorithm": name, "metric": metric, "flops": flops}
    if quick:
        return
    for flops, name in itertools.product(budgets, BEST):
        chosen: Record = {"algorithm": name, "metric": "hidden", "flops": flops}
        yield {**chosen, "proportional": False}
        if "margin" in ALGORITHMS[name].parameters:
            for margin in (0.5, 0.0):
                yield {**chosen, "algorithm_options": {"margin": margin}}


class Kept:
    """Figures in a file, a line of JSON each."""

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self.records: list[Record] = [json.loads(line) for line in lines]
        self.known = {self._key(record) for record in self.records}

    @staticmethod
    def _key(record: Record) -> str:
        return json.dumps([record["task"], record["options"]], sort_keys=True)

    def has(self, task: str, options: Record) -> bool:
        """Is there a figure for it?"""
        return self._key({"task": task, "options": options}) in self.known

    def add(self, record: Record) -> None:
        """Keep a figure, at once."""
        self.records.append(record)
        self.known.add(self._key(record))
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            file.write(json.dumps(record) + "\n")


def measure(task: Task, options: list[Record], kept: Kept, console: Console) -> None:
    """Measure a task in every way that is not known yet."""
    columns = (TextColumn(task.name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(options))
        for chosen in options:
            if not kept.has(task.name, chosen):
                start = time.perf_counter()
                try:
                    figures: Record = task.measure(chosen)
                except PitomeError as refusal:
                    figures = {"refused": str(refusal)}
                seconds = round(time.perf_counter() - start, 1)
                kept.add(
                    {"task": task.name, "options": chosen, "figures": figures, "seconds": seconds}
                )
            progress.advance(bar)


if __name__ == "__main__":
    sys.exit(main())

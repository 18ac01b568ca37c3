"""Runs the zoo and writes docs/model-coverage.md: ``python -m tests.zoo.coverage [NAME…]``."""

from __future__ import annotations

import itertools
import logging
import os
import sys
import traceback
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from pitome_fx import Report
from tests.support.torchvision_shim import define_missing_ops
from tests.zoo.check import RATIO, Finding, examine
from tests.zoo.entry import Entry

PAGE = Path(__file__).parents[2] / "docs" / "model-coverage.md"

HEADER = f"""# Model coverage

What the pass makes of small models of each family (random weights, few layers; `make zoo` writes
this page). Every one is checked: with `ratio=1.0` it is bit-identical to the dense model; with
`ratio={RATIO}` the rewritten graph computes what the simulation computes (1e-9 in float64, 1e-5
where the model itself computes in float32), shapes and dtypes are the dense ones, also for a second
batch size, and for another image size or length where the model takes one: for it alone, and in one
graph for both sizes.

*Sites* are attention calls: how many merge, and why the others do not. *Tokens* are those at the
first and after the last merge. *FLOPs* are what is left of the dense ones at these toy widths,
matching and merging included; real widths save more. *Lifts* are places where tokens are unmerged
for an op that needs them all.
"""


def main(names: list[str]) -> int:
    """Check all models, or those whose name contains one of ``names``."""
    define_missing_ops()
    from tests.zoo.catalogue import ENTRIES

    chosen = [e for e in ENTRIES if not names or any(name in e.name for name in names)]
    console = Console(stderr=True)
    passed: list[tuple[Entry, Finding]] = []
    problems: list[str] = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        results = pool.map(_examine, [entry.name for entry in chosen])
        watched = track(results, "zoo", len(chosen), console=console)
        for entry, found in zip(chosen, watched, strict=True):
            if isinstance(found, str):
                problems.append(f"{entry.name}: {found}")
                continue
            passed.append((entry, found))
            problems += [f"{entry.name}: {problem}" for problem in found.problems]
    for problem in problems:
        console.print(problem, style="red", markup=False, soft_wrap=True)
    if not names:
        PAGE.write_text(page(passed))
    merging = sum(found.report.merged > 0 for _, found in passed)
    console.print(f"{len(chosen)} models: {merging} merge, {len(problems)} problems")
    return 1 if problems else 0


def _examine(name: str) -> Finding | str:
    """In a process of its own: what was found, or the exception."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    define_missing_ops()
    from tests.zoo.catalogue import ENTRIES

    (entry,) = (entry for entry in ENTRIES if entry.name == name)
    try:
        return examine(entry)
    except Exception:
        return traceback.format_exc(limit=-3)


def page(findings: list[tuple[Entry, Finding]]) -> str:
    """The page, a section for each family."""
    merging = sum(found.report.merged > 0 for _, found in findings)
    parts = [HEADER, f"{len(findings)} models, {merging} of them merge.\n"]
    for family, members in itertools.groupby(
        sorted(findings, key=lambda pair: pair[0].family), key=lambda pair: pair[0].family
    ):
        parts.append(section(family, list(members)))
    return "\n".join(parts)


def section(family: str, members: list[tuple[Entry, Finding]]) -> str:
    """One family: what is lost in it, then a row for each model."""
    lines = [f"## {family}", "", lost([found.report for _, found in members]), ""]
    lines += ["| model | sites | tokens | FLOPs | lifts |", "|---|---|---|---|---|"]
    for entry, found in members:
        report = found.report
        kept = report.flops_after / report.flops_before if report.flops_before else 1.0
        cells = [entry.name, found.verdict, tokens(report), f"{kept:.0%}", str(len(report.lifts))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def lost(reports: list[Report]) -> str:
    """The commonest lifts and refusals of a family, in a sentence or two."""
    lifts = Counter(f"`{place.op}` ({place.why})" for report in reports for place in report.lifts)
    refusals = Counter(
        str(block.reason).split(":")[0]
        for report in reports
        for block in report.blocks
        if not block.merged
    )
    said = []
    if refusals:
        said.append("Sites that stay dense: " + _counted(refusals) + ".")
    if lifts:
        said.append("Unmerged at: " + _counted(lifts) + ".")
    return " ".join(said) or "Nothing is lost: every site merges and nothing is unmerged."


def _counted(counter: Counter[str]) -> str:
    return "; ".join(f"{what} ×{n}" for what, n in counter.most_common(6))


def tokens(report: Report) -> str:
    """Tokens at the first merge and after the last, of the longest stream."""
    merged = [block for block in report.blocks if block.merged]
    if not merged:
        return "–"
    return f"{max(b.tokens_before for b in merged)} → {merged[-1].tokens_after}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""The study's tables, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]

FIGURES = {
    "fashion": (("probe", 1), ("20-NN", 1)),
    "photographs": (("class cosine", 3), ("patches cosine", 3)),
    "text": (("cosine", 4), ("worst cosine", 2), ("5 neighbours", 3)),
}
"""Of each task its figures, with the decimals that are shown."""

TITLES = {
    "fashion": "Fashion-MNIST: class token of DINOv2-S/14, accuracy (%) of the dense model's heads",
    "photographs": "Photographs: cosine of DINOv2-S/14's tokens to the dense model's",
    "text": "English paragraphs: sentence embeddings of all-MiniLM-L6-v2 against the dense model's",
}


def write(records: Sequence[Record], file: Path, machine: str) -> None:
    """All tables, each as *half chosen on* / *half confirmed on*."""
    parts = ["```\n" + machine + "\n```\n"]
    for task, figures in FIGURES.items():
        own = [r for r in records if r["task"] == task and "refused" not in r["figures"]]
        if own:
            parts += [f"## {TITLES[task]}\n", _table(own, figures), ""]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(parts))


def _table(records: Sequence[Record], figures: Sequence[tuple[str, int]]) -> str:
    budgets = sorted({r["options"]["flops"] for r in records if r["options"]}, reverse=True)
    rows: dict[str, dict[float, Record]] = {}
    dense = ""
    for record in records:
        options = dict(record["options"])
        flops = options.pop("flops", None)
        if flops is None:
            dense = _cell(record["figures"], figures)
        else:
            rows.setdefault(_name(options), {})[flops] = record["figures"]
    names = ", ".join(name for name, _ in figures)
    lines = [
        f"{names}; dense {dense}\n" if dense else f"{names}\n",
        "| algorithm | " + " | ".join(f"FLOPs {b}" for b in budgets) + " |",
        "|---|" + "---|" * len(budgets),
    ]
    first = figures[0][0]

    def rank(item: tuple[str, dict[float, Record]]) -> float:
        return -sum(f[f"{first}/choose"] + f[f"{first}/confirm"] for f in item[1].values())

    for name, found in sorted(rows.items(), key=rank):
        cells = [_cell(found[b], figures) if b in found else "–" for b in budgets]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(found: Record, figures: Sequence[tuple[str, int]]) -> str:
    return ", ".join(
        f"{found[f'{name}/choose']:.{digits}f}/{found[f'{name}/confirm']:.{digits}f}"
        for name, digits in figures
        if f"{name}/choose" in found
    )


def _name(options: Record) -> str:
    rest = {key: value for key, value in options.items() if key not in ("algorithm", "metric")}
    said = f"`{options['algorithm']}`, {options['metric']}"
    return said + (f", `{json.dumps(rest)}`" if rest else "")

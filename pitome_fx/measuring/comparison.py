"""What a comparison found: how far each output moves, and which items most."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from pitome_fx.rendering import printed


@dataclass(frozen=True)
class OutputChange:
    """One output of the model, over all items.

    Attributes:
        name: its place among the outputs, as ``.logits`` or ``[0]``.
        mean_change, largest_change: ``|y − y₀| / |y₀|`` of an item.
        mean_cosine, smallest_cosine: between an item's merged and dense output.
        top1_agreement: share of items whose highest score is of the same class; None where the
            output is none of scores (B, classes).
    """

    name: str
    mean_change: float
    largest_change: float
    mean_cosine: float
    smallest_cosine: float
    top1_agreement: float | None


@dataclass(frozen=True)
class Accuracy:
    """Share of the labels that the first output of scores predicts."""

    dense: float
    merged: float
    labels: int


@dataclass(frozen=True)
class Item:
    """One item: its number in the order of the data, and the largest change of its outputs."""

    number: int
    change: float


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found.

    Attributes:
        options: in short.
        flops: of the merged model, as a fraction of the dense one's (in the first call).
        items: how many were compared.
        outputs: one for each floating-point output.
        accuracy: where labels are given.
        worst: the items that move most, worst first.
        notes: what else the user should know.
    """

    options: str
    flops: float
    items: int
    outputs: tuple[OutputChange, ...]
    accuracy: Accuracy | None
    worst: tuple[Item, ...]
    notes: tuple[str, ...]

    def to_json(self, **kwargs: Any) -> str:
        """All of it as JSON; keyword arguments go to ``json.dumps``."""
        return json.dumps(asdict(self), **kwargs)

    def __str__(self) -> str:
        table = Table(title=f"Merged ({self.options}) against dense", title_justify="left")
        for name in ("output", "change", "largest", "cosine", "smallest", "same top 1"):
            table.add_column(name, justify="left" if name == "output" else "right")
        for output in self.outputs:
            agreement = output.top1_agreement
            table.add_row(
                output.name,
                f"{output.mean_change:.4f}",
                f"{output.largest_change:.4f}",
                f"{output.mean_cosine:.4f}",
                f"{output.smallest_cosine:.4f}",
                "–" if agreement is None else f"{agreement:.1%}",
            )
        return printed(table, *self._lines())

    def _lines(self) -> list[str]:
        lines = [f"{self.items} items at {self.flops:.1%} of the FLOPs."]
        if self.accuracy is not None:
            dense, merged = self.accuracy.dense, self.accuracy.merged
            lines.append(
                f"Accuracy {dense:.2%} dense, {merged:.2%} merged ({self.accuracy.labels} labels)."
            )
        listed = ", ".join(f"{item.number} ({item.change:.3f})" for item in self.worst)
        return [*lines, f"Items that move most: {listed}.", *(f"Note: {n}" for n in self.notes)]

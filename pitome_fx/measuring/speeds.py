"""What a benchmark found: a row for each way of running a model; as a table, JSON, a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from pitome_fx.measuring.timing import Spread
from pitome_fx.rendering import printed

DENSE = "dense"


@dataclass(frozen=True)
class Run:
    """One way of running the model.

    Attributes:
        name: ``"dense"``, or the options in short.
        options: those that differ from the defaults.
        seconds: per call, median and quartiles.
        speedup: over the dense model, quartiles of the ratio within each round.
        flops: per call, matching and merging included.
        peak_bytes: held by a call at its peak; None where the device does not say.
        first_call: seconds, compiling included.
        merged, sites: how many attention sites merge, and how many there are (0 for dense).
        notes: what else the user should know.
    """

    name: str
    options: Mapping[str, Any]
    seconds: Spread
    speedup: Spread
    flops: int
    peak_bytes: int | None
    first_call: float
    merged: int
    sites: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """What ``benchmark`` found.

    Attributes:
        runs: the dense model first.
        rounds: of timing.
        cold: were the caches empty at the first calls?
        machine: processor, threads, accelerator and versions.
    """

    runs: tuple[Run, ...]
    rounds: int
    cold: bool
    machine: Mapping[str, str]

    @property
    def dense(self) -> Run:
        """The dense model's."""
        return self.runs[0]

    def efficiency(self, run: Run) -> float:
        """How much of the saved arithmetic arrives as time: speed-up over the FLOPs ratio."""
        return run.speedup.median * run.flops / self.dense.flops if self.dense.flops else 1.0

    def to_json(self, **kwargs: Any) -> str:
        """All of it as JSON; keyword arguments go to ``json.dumps``."""
        found = asdict(self)
        for row, run in zip(found["runs"], self.runs, strict=True):
            row["efficiency"] = self.efficiency(run)
        return json.dumps(found, default=dict, **kwargs)

    def save_plot(self, path: str | Path) -> None:
        """Milliseconds of each way, with quartiles, as a picture (PNG, or what the name says).

        Raises:
            ImportError: matplotlib is missing (the extra ``viz``).
        """
        from pitome_fx.measuring.plots import bars

        names = [run.name for run in self.runs]
        labels = [f"{r.speedup.median:.2f}× at {r.flops / 1e9:.3g} GFLOPs" for r in self.runs]
        bars(names, [run.seconds for run in self.runs], labels).savefig(path)

    def __str__(self) -> str:
        table = Table(title="Dense and merged, interleaved", title_justify="left")
        for name in ("", "ms per call", "speed-up", "FLOPs", "efficiency", "peak MB", "first call"):
            table.add_column(name, justify="right" if name else "left", no_wrap=bool(name))
        for run in self.runs:
            table.add_row(*self._row(run))
        facts = "; ".join(f"{key} {value}" for key, value in self.machine.items())
        caches = "empty" if self.cold else "as they were"
        notes = [f"{run.name}: {note}" for run in self.runs for note in run.notes]
        tail = [
            f"Medians [quartiles] of {self.rounds} rounds; caches at the first call: {caches}.",
            facts,
            *(f"Note: {note}" for note in notes),
        ]
        return printed(table, *tail)

    def _row(self, run: Run) -> tuple[str, ...]:
        name = run.name if run is self.dense else f"{run.name} ({run.merged}/{run.sites} merge)"
        peak = "–" if run.peak_bytes is None else f"{run.peak_bytes / 1e6:.1f}"
        share = run.flops / self.dense.flops if self.dense.flops else 1.0
        return (
            name,
            run.seconds.show(1e3, digits=1),
            run.speedup.show(unit="×"),
            f"{run.flops / 1e9:.2f} G ({share:.0%})",
            f"{self.efficiency(run):.2f}",
            peak,
            f"{run.first_call:.1f} s",
        )

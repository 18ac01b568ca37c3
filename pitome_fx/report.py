"""The report: a verdict for every attention site, and what the rewrite cost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from pitome_fx.rendering import printed


@dataclass(frozen=True)
class BlockReport:
    """One attention site.

    Attributes:
        number: position among the attention sites, as the option ``blocks`` counts them.
        graph: which graph of the model (graph breaks make several).
        module: path of the module that attends.
        tokens_before, tokens_after: token counts around its merge (hints if symbolic).
        merged: did tokens merge here?
        reason: why not; None if they did.
    """

    number: int
    graph: int
    module: str
    tokens_before: int
    tokens_after: int
    merged: bool
    reason: str | None


@dataclass(frozen=True)
class Place:
    """Where tokens were unmerged (a lift) or a dense tensor was merged along (a projection).

    Attributes:
        graph: which graph of the model.
        module: path of the module whose op it is.
        op: the op that takes the tensor.
        why: in words.
    """

    graph: int
    module: str
    op: str
    why: str


@dataclass(frozen=True)
class Report:
    """What the pass made of a model.

    Attributes:
        blocks: one per attention site, over all graphs.
        lifts: where tokens had to be unmerged, and why.
        projections: which dense tensors were merged along, and why.
        flops_before, flops_after: per call, matching and merging included.
        seconds_before, seconds_after: what a call is expected to take on this device, where the
            amount is one of time; else None.
        algorithm: the merging algorithm.
        proportional: whether attention got its log-size term.
        regions, kinds: parts that Inductor is given, and how many of these differ so that each is
            compiled; 0 where it is given whole graphs.
        notes: what else the user should know.
        seconds: wall time of the pass by stage, summed over the graphs.
    """

    blocks: tuple[BlockReport, ...]
    lifts: tuple[Place, ...]
    projections: tuple[Place, ...]
    flops_before: int
    flops_after: int
    seconds_before: float | None
    seconds_after: float | None
    algorithm: str
    proportional: bool
    regions: int
    kinds: int
    notes: tuple[str, ...]
    seconds: dict[str, float]

    @property
    def merged(self) -> int:
        """Number of blocks that merge."""
        return sum(block.merged for block in self.blocks)

    def to_json(self, **kwargs: Any) -> str:
        """All of it as JSON; keyword arguments go to ``json.dumps``."""
        return json.dumps(asdict(self), **kwargs)

    def __str__(self) -> str:
        return printed(self._blocks_table(), *self._lines())

    def _lines(self) -> Iterator[str]:
        for title, places in (("Unmerged at", self.lifts), ("Merged along", self.projections)):
            if places:
                yield f"{title}: " + "; ".join(_summary(places))
        kept = self.flops_after / self.flops_before if self.flops_before else 1.0
        yield (
            f"{self.merged} of {len(self.blocks)} attention sites merge; "
            f"{self.flops_before / 1e9:.3f} → {self.flops_after / 1e9:.3f} GFLOPs "
            f"({kept:.1%} of the dense model)"
        )
        if self.seconds_before and self.seconds_after:
            yield (
                f"Expected on this device: {self.seconds_before * 1e3:.4g} → "
                f"{self.seconds_after * 1e3:.4g} ms per call "
                f"({self.seconds_before / self.seconds_after:.2f} times faster)"
            )
        yield from self.remarks
        yield from (f"Note: {note}" for note in self.notes)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What else is to be said of it, in sentences."""
        found = []
        if not self.proportional:
            found.append("Attention is not proportional: merged keys count as one token each.")
        if self.regions:
            counted = f"{self.regions} regions of {self.kinds} kinds"
            found.append(f"Inductor compiles {counted}, each kind once.")
        return tuple(found)

    def _blocks_table(self) -> Table:
        table = Table(title=f"Token merging ({self.algorithm})", title_justify="left")
        for name in ("#", "module", "tokens", "verdict"):
            table.add_column(name, justify="right" if name in ("#", "tokens") else "left")
        for block in self.blocks:
            tokens = f"{block.tokens_before} → {block.tokens_after}"
            verdict = "merged" if block.merged else f"dense: {block.reason}"
            table.add_row(
                str(block.number),
                block.module or "(top level)",
                tokens if block.merged else str(block.tokens_before),
                verdict,
            )
        return table


def _summary(places: Iterable[Place]) -> list[str]:
    """Places by module and reason, each once, with a count."""
    counts: dict[str, int] = {}
    for place in places:
        key = f"{place.module or 'the graph'} ({place.op}: {place.why})"
        counts[key] = counts.get(key, 0) + 1
    return [key if n == 1 else f"{key} ×{n}" for key, n in counts.items()]


def why_nothing_merges(sites: Sequence[BlockReport]) -> str:
    """One sentence on why a model runs dense, none of whose attention merges."""
    if not sites:
        return "pitome: the model runs dense: no attention was found in it."
    listed = "; ".join(
        f"{site.module or 'attention'} #{site.number}: {site.reason}" for site in sites[:4]
    )
    more = f" (and {len(sites) - 4} more)" if len(sites) > 4 else ""
    return f"pitome: the model runs dense: none of its attention may merge. {listed}{more}."


def notes_of(report: Report) -> tuple[str, ...]:
    """The notes of a report; where nothing merges, why is one of them."""
    return report.notes if report.merged else (*report.notes, why_nothing_merges(report.blocks))

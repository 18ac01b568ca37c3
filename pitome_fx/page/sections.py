"""What is shown beside the graphs: verdicts, FLOPs, lifts and projections, notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pitome_fx.page.charts import Bar, chart
from pitome_fx.page.contents import Contents
from pitome_fx.page.markup import TOP_LEVEL, Markup, folded, markup, path, table, tag
from pitome_fx.page.parts import costs
from pitome_fx.report import BlockReport, Place, Report, why_nothing_merges

MANY = 20
"""Rows of numbers that are folded where there is a chart of them."""


def headline(report: Report) -> Markup:
    """What became of the model, in a few numbers; why not, where nothing merges."""
    unit = Unit(report.flops_before)
    facts = [
        (f"{report.merged} of {len(report.blocks)}", "attention sites merge"),
        (unit.both(report.flops_before, report.flops_after), f"{unit.name} per call"),
        (_kept(report.flops_before, report.flops_after), "of the dense model's FLOPs"),
    ]
    if report.seconds_before and report.seconds_after:
        times = f"{report.seconds_before * 1e3:.4g} → {report.seconds_after * 1e3:.4g}"
        facts.append((times, "ms per call expected on this device"))
    cards = (tag("div", tag("b", value), tag("span", of)) for value, of in facts)
    shown = tag("div", *cards, class_="facts")
    return shown if report.merged else markup(shown, tag("p", _why_dense(report), class_="dense"))


def _why_dense(report: Report) -> str:
    if not report.blocks and report.notes:
        return "The model runs dense: the notes say why."
    text = why_nothing_merges(report.blocks).removeprefix("pitome: ")
    return text[0].upper() + text[1:]


def verdicts(contents: Contents) -> Markup:
    """Every attention site: its tokens, whether it merges, and why not."""
    report = contents.report
    if not report.blocks:
        return markup()
    bars = [Bar(f"#{b.number} {b.module}", b.tokens_before, b.tokens_after) for b in report.blocks]
    head = [">#", *_of_several(contents, ">graph"), "module", ">tokens", "verdict"]
    counts = chart(
        "Tokens around each attention site",
        bars,
        highest=str(max(block.tokens_before for block in report.blocks)),
        written="{} → {}",
        meaning=("before its merge", "after"),
    )
    return markup(
        tag("h2", "Attention sites"),
        counts if report.merged else markup(),
        table(head, (_verdict(contents, block) for block in report.blocks)),
    )


def _verdict(contents: Contents, block: BlockReport) -> list[str]:
    if block.merged:
        tokens = f"{block.tokens_before} → {block.tokens_after}"
        verdict = tag("span", "merged", class_="merged")
    else:
        tokens = str(block.tokens_before)
        verdict = tag("span", f"dense: {block.reason}", class_="dense")
    graph = _of_several(contents, str(block.graph))
    return [str(block.number), *graph, path(block.module), tokens, verdict]


def _of_several(contents: Contents, cell: str) -> list[str]:
    """A cell on which graph a row is of, where there are several."""
    return [cell] if len(contents.outcomes) > 1 else []


def flops(contents: Contents) -> Markup:
    """What each part of the model costs before and after."""
    found = costs(contents.outcomes)
    if not found:
        return markup()
    report = contents.report
    unit = Unit(report.flops_before)
    rows = [
        [
            *_of_several(contents, str(cost.graph)),
            path(cost.part),
            unit.both(cost.before, cost.after),
            _kept(cost.before, cost.after),
        ]
        for cost in found
    ]
    total = (
        "sum",
        unit.both(report.flops_before, report.flops_after),
        _kept(report.flops_before, report.flops_after),
    )
    rows.append([*_of_several(contents, ""), *(tag("b", text) for text in total)])
    head = [*_of_several(contents, ">graph"), "module", f">{unit.name}", ">kept"]
    numbers = table(head, rows)
    if not report.merged:
        return markup(tag("h2", "FLOPs"), numbers)
    bars = chart(
        f"{unit.name} of each part of the model",
        [
            Bar(cost.part or TOP_LEVEL, cost.before / unit.size, cost.after / unit.size)
            for cost in found
        ],
        highest=unit.text(max(max(cost.before, cost.after) for cost in found)),
        written="{:.3f} → {:.3f}",
        meaning=("dense", "merged"),
    )
    return markup(tag("h2", "FLOPs"), bars, folded("Numbers", numbers, opened=len(rows) <= MANY))


class Unit:
    """What FLOPs are counted in on one page.

    Args:
        total: FLOPs of the model.
    """

    def __init__(self, total: int) -> None:
        sizes = {"GFLOPs": 1e9, "MFLOPs": 1e6, "kFLOPs": 1e3}
        self.name, self.size = next(
            ((name, size) for name, size in sizes.items() if total >= size), ("kFLOPs", 1e3)
        )

    def text(self, flops: int) -> str:
        """A number of FLOPs in this unit."""
        return f"{flops / self.size:.3f}"

    def both(self, before: int, after: int) -> str:
        """Two of them, once where they are equal."""
        return self.text(before) if before == after else f"{self.text(before)} → {self.text(after)}"


def _kept(before: int, after: int) -> str:
    return f"{after / before:.1%}" if before else "–"


def moves(report: Report) -> Markup:
    """Where tokens were unmerged, and what was merged along."""
    tables = (
        ("Unmerged", "Here every token is needed again.", report.lifts),
        ("Merged along", "Here a dense tensor meets merged tokens.", report.projections),
    )
    return markup(
        *(
            markup(tag("h2", title), tag("p", about, class_="small"), _places(places))
            for title, about, places in tables
            if places
        )
    )


def _places(places: Sequence[Place]) -> Markup:
    counts = Counter((place.module, place.op, place.why) for place in places)
    return table(
        ["module", "op", "why", ">times"],
        (
            [path(module), tag("code", op), why, str(times)]
            for (module, op, why), times in counts.items()
        ),
    )


def notes(report: Report) -> Markup:
    """What else the user should know."""
    found = [*report.notes, *report.remarks]
    if report.seconds:
        spent = ", ".join(f"{stage} {time:.2f} s" for stage, time in report.seconds.items())
        found.append(f"Time of the pass: {spent}.")
    return markup(tag("h2", "Notes"), tag("ul", *(tag("li", note) for note in found)))

"""From what the stages found to the report a user reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch.fx import Node

from pitome_fx.options import Options
from pitome_fx.passes.detect.sites import Site
from pitome_fx.passes.failures import module_path
from pitome_fx.passes.pipeline import Outcome
from pitome_fx.passes.plan.flops import FlopCounter
from pitome_fx.passes.regions.budget import cut_where_alike
from pitome_fx.passes.regions.cutting import Cut
from pitome_fx.passes.tokens.dims import dense_length
from pitome_fx.passes.tokens.sizes import hint
from pitome_fx.report import BlockReport, Place, Report


def make_report(
    outcomes: Sequence[Outcome], notes: Iterable[str] = (), options: Options | None = None
) -> Report:
    """One report over all graphs of a model; the options are for a model without any."""
    counter = FlopCounter()
    before = [counter.total(outcome.program.graph) for outcome in outcomes]
    after = [
        dense if outcome.rewritten is None else counter.total(outcome.rewritten.graph)
        for outcome, dense in zip(outcomes, before, strict=True)
    ]
    seconds: dict[str, float] = {}
    for outcome in outcomes:
        for stage, spent in outcome.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    options = outcomes[0].options if outcomes else options or Options()
    cuts = [found for outcome in outcomes if (found := _cut(outcome)) is not None]
    expected = [outcome.plan.seconds for outcome in outcomes if outcome.plan.seconds is not None]
    own_notes = dict.fromkeys(note for outcome in outcomes for note in outcome.notes)
    return Report(
        blocks=tuple(b for i, outcome in enumerate(outcomes) for b in _blocks(i, outcome)),
        lifts=tuple(p for i, o in enumerate(outcomes) for p in _lifts(i, o)),
        projections=tuple(p for i, o in enumerate(outcomes) for p in _projections(i, o)),
        flops_before=sum(before),
        flops_after=sum(after),
        seconds_before=sum(x.dense for x in expected) if expected else None,
        seconds_after=sum(x.merged for x in expected) if expected else None,
        algorithm=options.algorithm,
        proportional=options.proportional,
        regions=sum(len(cut.regions) for cut in cuts),
        kinds=len({key for cut in cuts for key in cut.kinds}),
        notes=(*own_notes, *_of_each_graph(options, len(outcomes)), *notes),
        seconds=seconds,
    )


def _of_each_graph(options: Options, graphs: int) -> list[str]:
    """What is asked of a call is asked of each graph: one is planned before the next is known."""
    if not options.is_timed or graphs < 2:
        return []
    name = "latency" if options.speedup is None else "speedup"
    asked = f"{name}={getattr(options, name)}"
    return [f"{asked} is asked of each of the {graphs} graphs by itself"]


def _cut(outcome: Outcome) -> Cut | None:
    """Its regions, where the lowering compiles by regions."""
    options = outcome.options
    if outcome.rewritten is None or options.regions is False or options.lowering != "inductor":
        return None
    found = cut_where_alike(outcome.rewritten.graph, outcome.program.given)
    return found if isinstance(found, Cut) else None


def _blocks(graph: int, outcome: Outcome) -> list[BlockReport]:
    return [_block(graph, outcome, site) for site in outcome.detection.sites]


def _block(graph: int, outcome: Outcome, site: Site) -> BlockReport:
    point = {block.site: block.point for block in outcome.detection.blocks}.get(site)
    if outcome.rewritten is not None and point is not None:
        for merge in outcome.rewritten.merges:
            if merge.planned.block.point is point:
                counts = hint(merge.before), hint(merge.after)
                return BlockReport(site.number, graph, site.module, *counts, True, None)
    tokens = hint(dense_length(site.query_dim))
    return BlockReport(
        site.number, graph, site.module, tokens, tokens, False, _reason(outcome, site)
    )


def _reason(outcome: Outcome, site: Site) -> str:
    """Why a site does not merge."""
    if site in outcome.plan.refusals:
        return outcome.plan.refusals[site]
    # It shares its merge point with a site that has the reason.
    point = {block.site: block.point for block in outcome.detection.blocks}.get(site)
    for block in outcome.detection.blocks:
        if block.point is point and block.site in outcome.plan.refusals:
            return outcome.plan.refusals[block.site]
    return "no merge was made after this attention"


def _lifts(graph: int, outcome: Outcome) -> list[Place]:
    events = () if outcome.rewritten is None else outcome.rewritten.lifts
    return [Place(graph, _where(e.node, e.operand), _op(e.node), e.why) for e in events]


def _projections(graph: int, outcome: Outcome) -> list[Place]:
    events = () if outcome.rewritten is None else outcome.rewritten.projections
    return [Place(graph, _where(e.node, e.operand), _op(e.node), e.why) for e in events]


def _where(node: Node, operand: Node | None) -> str:
    path = module_path(node)
    return path or (module_path(operand) if operand is not None else "")


def _op(node: Node) -> str:
    target: Any = node.target
    return str(target) if node.op != "output" else "output"

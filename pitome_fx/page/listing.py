"""The dense and the merged graph side by side, part by part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch.fx import Node

from pitome_fx.page.contents import Contents
from pitome_fx.page.lines import KINDS, Names, inputs, kinds
from pitome_fx.page.markup import Markup, folded, markup, tag
from pitome_fx.page.pairing import Pair, pairs
from pitome_fx.page.parts import is_within, parts_of
from pitome_fx.page.segments import Segment, alike, segments
from pitome_fx.passes.pipeline import Outcome

WIDEST = 48
"""Characters to which lines are filled up so that shapes stand in a column."""

GAP = tag("b", "\n", class_="gap")
"""Where the other graph has a node."""


def listings(contents: Contents) -> Markup:
    """Every graph before and after."""
    if not contents.outcomes:
        return markup()
    keys = (
        markup(tag("dt", tag("b", kind, class_=kind)), tag("dd", meaning))
        for kind, meaning in KINDS.items()
    )
    several = "The graphs" if len(contents.outcomes) > 1 else "The graph"
    return markup(
        tag("h2", f"{several}, op by op"),
        tag("dl", *keys, class_="kinds") if contents.report.merged else markup(),
        *(_graph(contents, number) for number in range(len(contents.outcomes))),
    )


def _graph(contents: Contents, number: int) -> Markup:
    outcome = contents.outcomes[number]
    dense, rewritten = outcome.program.graph, outcome.rewritten
    rows = pairs(dense, None if rewritten is None else rewritten.graph)
    shown = Shown(
        Names(rows, _parameters(contents, outcome)), kinds(rows), both=rewritten is not None
    )
    found = segments(rows, parts_of(outcome))
    like = alike(found)
    opened = shown.first_to_open(found)
    given = inputs(dense, outcome.program.constants)
    title = "before and after" if shown.both else "nothing merges"
    several = len(contents.outcomes) > 1
    return markup(
        tag("h3", f"Graph {number}: {title}" if several else title.capitalize()),
        tag("p", "Inputs: ", tag("code", ", ".join(given) or "none"), class_="small"),
        *(
            shown.segment(
                segment, _about(contents, number, segment, like), opened=segment is opened
            )
            for segment in found
        ),
    )


def _about(contents: Contents, graph: int, segment: Segment, like: dict[Segment, str]) -> str:
    """How many tokens come and go, and which earlier segment this one is like."""
    sites = [
        site
        for site in contents.report.blocks
        if site.graph == graph
        and segment.block is not None
        and is_within(site.module, segment.block)
    ]
    counts = [sites[0].tokens_before, sites[-1].tokens_after] if sites else []
    tokens = " → ".join(str(count) for count in dict.fromkeys(counts))
    said = [f"{tokens} tokens"] if tokens else []
    return ", ".join(said + ([f"as {like[segment]}"] if segment in like else []))


def _parameters(contents: Contents, outcome: Outcome) -> dict[Node, str]:
    """Placeholders of both graphs that hold a parameter, with its path."""
    program, rewritten = outcome.program, outcome.rewritten
    dense = program.graph.graph.find_nodes(op="placeholder")
    merged = dense if rewritten is None else rewritten.graph.graph.find_nodes(op="placeholder")
    held = [(i, program.parameters[n]) for i, n in enumerate(dense) if n in program.parameters]
    named = [(i, contents.names[id(value)]) for i, value in held if id(value) in contents.names]
    return {node: name for i, name in named for node in (dense[i], merged[i])}


@dataclass(frozen=True)
class Shown:
    """How the nodes of one graph, or of it before and after, are written.

    Attributes:
        names: of all nodes.
        kinds: what the nodes are there for that merging added.
        both: is there a graph before and one after?
    """

    names: Names
    kinds: dict[Node, str]
    both: bool

    def first_to_open(self, found: Sequence[Segment]) -> Segment | None:
        """The first segment in which tokens merge, else the first block, else the first."""
        merging = [segment for segment in found if "merge" in self._added(segment)]
        blocks = [segment for segment in found if segment.block is not None]
        return next(iter([*merging, *blocks, *found]), None)

    def _added(self, segment: Segment) -> set[str]:
        return {self.kinds[row.merged] for row in segment.rows if row.merged in self.kinds}

    def segment(self, segment: Segment, about: str, opened: bool) -> Markup:
        """A segment, to unfold; what is in it is in its title."""
        added = self._added(segment) - {"added"}
        title = markup(
            tag("code", segment.title),
            *(markup(" ", tag("b", kind, class_=kind)) for kind in KINDS if kind in added),
            *([" ", tag("span", about, class_="small")] if about else []),
        )
        dense = tag("pre", *self._column([(row, row.dense) for row in segment.rows], segment))
        if not self.both:
            return folded(title, dense, opened=opened)
        merged = tag("pre", *self._column([(row, row.merged) for row in segment.rows], segment))
        return folded(title, tag("div", dense, merged, class_="sides"), opened=opened)

    def _column(
        self, rows: Sequence[tuple[Pair, Node | None]], segment: Segment
    ) -> Iterable[Markup]:
        """The nodes of one graph; where it has none, a gap beside that of the other."""
        texts = [self.names.line(node).text for _, node in rows if node is not None]
        width = min(max(map(len, texts), default=0), WIDEST)
        for module, group in groupby(rows, lambda row: segment.relative(row[0])):
            inside = list(group)
            if module:
                empty = all(node is None for _, node in inside)
                yield GAP if empty else tag("b", f"{module}\n", class_="module")
            yield from (
                GAP if node is None else self._line(row, node, width) for row, node in inside
            )

    def _line(self, row: Pair, node: Node, width: int) -> Markup:
        line = self.names.line(node)
        if not line.shape:
            return markup(line.text, "\n")
        dense = row.dense if row.dense is not None and row.dense is not node else None
        changed = dense is not None and self.names.line(dense).shape != line.shape
        shape = tag("i", line.shape) if changed else markup(line.shape)
        text = markup(line.text.ljust(width), " ", shape)
        kind = self.kinds.get(node)
        return markup(tag("b", text, class_=kind) if kind else text, "\n")

"""Both graphs in segments: nodes that run one after another in one part of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from pitome_fx.page.markup import TOP_LEVEL
from pitome_fx.page.pairing import Pair
from pitome_fx.page.parts import Parts
from pitome_fx.passes.failures import module_path


@dataclass(frozen=True, eq=False)
class Segment:
    """Nodes of one block, or of what runs between two blocks.

    Attributes:
        title: the parts that they are of.
        block: path of the block; None between blocks.
        rows: in their order.
    """

    title: str
    block: str | None
    rows: tuple[Pair, ...]

    def relative(self, row: Pair) -> str:
        """The module of a row, as seen from the block."""
        return module_of(row).removeprefix(self.block or "").removeprefix(".")

    @property
    def structure(self) -> tuple[tuple[object, ...], ...]:
        """Equal for segments that differ in sizes and names alone."""
        return tuple(
            (
                self.relative(row),
                row.dense.target if row.dense else None,
                row.merged.target if row.merged else None,
            )
            for row in self.rows
        )


def segments(rows: Sequence[Pair], parts: Parts) -> list[Segment]:
    """Rows in segments, in their order."""

    def block(row: Pair) -> str | None:
        part = parts.of(module_of(row))
        return part if part in parts.blocks else None

    found = []
    for part, group in groupby(rows, block):
        inside = tuple(group)
        names = [part] if part is not None else [parts.of(module_of(row)) for row in inside]
        title = ", ".join(name or TOP_LEVEL for name in dict.fromkeys(names))
        found.append(Segment(title, part, inside))
    return found


def module_of(row: Pair) -> str:
    """Path of the module that both nodes of a row are of."""
    node = row.dense or row.merged
    assert node is not None
    return module_path(node)


def alike(found: Sequence[Segment]) -> dict[Segment, str]:
    """Segments that have the structure of an earlier one, with the title of that."""
    first: dict[object, str] = {}
    titles = {segment: first.setdefault(segment.structure, segment.title) for segment in found}
    return {segment: title for segment, title in titles.items() if title != segment.title}

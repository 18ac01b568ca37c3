"""Protected tokens: those a graph itself treats as special.

They are the learned tokens that a concatenation puts before or behind the others (class,
distillation, register, detection tokens), and those that a select or slice picks at either end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pitome_fx.passes.replay.labels import Labels
from pitome_fx.passes.tokens.axes import Axis, Part, Position
from pitome_fx.passes.tokens.sizes import Size


def protected_tokens(axis: Axis, labels: Labels, protect: int | None) -> tuple[int, int]:
    """How many tokens at the front and at the back never merge.

    Args:
        protect: the number at the front, if the user gives it; None to find out from the graph.
    """
    if protect is not None:
        return protect, 0
    front, back = _learned(axis.parts), _learned(axis.parts[::-1])
    joins = [found for found in labels.axes.values() if found.parts]
    for position in sorted(_cuts(axis, joins)):
        index = position.within(axis.size)
        if _covered(index, axis.size, front, back) or _too_deep(position, axis.size):
            continue
        if position.from_end:
            back = max(back, position.offset)
        else:
            front = max(front, position.offset)
    return front, back


def _learned(parts: Iterable[Part]) -> int:
    """Learned tokens that a concatenation puts before the others."""
    total = 0
    for part in parts:
        if not part.learned or not isinstance(part.size, int):
            return total
        total += part.size
    return 0


def _cuts(axis: Axis, joins: Sequence[Axis]) -> set[Position]:
    """Where the graph cuts the axis, also by way of its slices and of what it is joined into."""
    cuts = {p for window in axis.windows for p in (window.start, window.stop)}
    for window in axis.windows:
        for cut in _cuts(window, joins):
            # A cut of the slice, counted from the slice's own start or stop.
            edge = window.stop if cut.from_end else window.start
            if cut.from_end == edge.from_end:
                cuts.add(Position(edge.offset + cut.offset, cut.from_end))
    for join in joins:
        before: Size = 0
        for part in join.parts:
            if part.axes == (axis,):
                after = join.size - before - part.size
                cuts |= _inside(_cuts(join, joins), before, after)
            before = before + part.size
    return {cut for cut in cuts if cut.offset > 0}


def _inside(cuts: Iterable[Position], before: Size, after: Size) -> set[Position]:
    """Cuts of a concatenation as cuts of one part, which has tokens before and after it."""
    inside = set()
    for cut in cuts:
        outside = after if cut.from_end else before
        if isinstance(outside, int):
            inside.add(Position(max(cut.offset - outside, 0), cut.from_end))
    return inside


def _covered(index: Size, size: Size, front: int, back: int) -> bool:
    if isinstance(index, int) and isinstance(size, int):
        return index <= front or index >= size - back
    return isinstance(index, int) and index <= front


def _too_deep(position: Position, size: Size) -> bool:
    """A cut through the middle: protecting all up to it would leave too little to merge."""
    return isinstance(size, int) and position.offset > max(1, size // 4)

"""Outputs that have a value for every token though tokens merged: where these were unmerged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch.fx import Node

from pitome_fx.passes.aten.operands import value_operands
from pitome_fx.passes.failures import module_path
from pitome_fx.passes.replay.interpreter import Replay
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import TokenTensor
from pitome_fx.passes.tokens.spaces import TokenSpace

Merged = Mapping[Axis, list[TokenSpace]]
"""The axes that merge, with all states they go through."""


def unmerged_on_the_way(
    replay: Replay, positions: Iterable[int], spaces: Iterable[TokenSpace]
) -> dict[int, str]:
    """Of the outputs at these positions those whose tokens are unmerged before, with the reason.

    Args:
        spaces: what the merges led to.
    """
    merged: dict[Axis, list[TokenSpace]] = {}
    for space in spaces:
        merged.setdefault(space.axis, []).append(space)
    reasons = {event.node: event.why for event in replay.lifts}
    sources: Any = replay.graph.graph.output_node().args[0]
    return {
        position: _reason(sources[position], reasons)
        for position in sorted(positions)
        if isinstance(sources[position], Node) and _is_dense(replay.env[sources[position]], merged)
    }


def _is_dense(x: Any, merged: Merged) -> bool:
    """Is it computed from merged tokens, and has all of them again?"""
    if not isinstance(x, TokenTensor) or x.merged or not x.tainted:
        return False
    return any(_holds_tokens(atom.axis, merged) for dim in x.dims for atom in dim)


def _holds_tokens(axis: Axis, merged: Merged) -> bool:
    """Does it hold tokens that merge, or a factor of their number?"""
    if axis in merged:
        return True
    if axis.whole is not None:
        return _holds_tokens(axis.whole, merged)
    if axis.base is not None:
        return not _is_protected(axis, merged) and _holds_tokens(axis.base, merged)
    return any(_holds_tokens(own, merged) for part in axis.parts for own in part.axes)


def _is_protected(window: Axis, merged: Merged) -> bool:
    """Does the slice hold protected tokens alone?"""
    states = merged.get(window.base, []) if window.base is not None else []
    ends = (window.start, window.stop)
    return window.start.from_end == window.stop.from_end and all(
        space.cuts_at(end) for space in states for end in ends
    )


def _reason(node: Node, reasons: Mapping[Node, str]) -> str:
    """Where the tokens of a node's value were unmerged, nearest to it."""
    seen, pending = {node}, [node]
    for source in pending:
        if source in reasons:
            op = f"{source.target} in {module_path(source) or 'the top level'}"
            return f"tokens are unmerged at {op}: {reasons[source]}"
        new = [operand for operand in value_operands(source) if operand not in seen]
        seen.update(new)
        pending += new
    return "tokens are unmerged on the way to it"

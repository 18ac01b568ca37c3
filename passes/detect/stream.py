"""The residual stream: where it passes an attention, and where it fans out afterwards."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch.fx import Node

from pitome_fx.passes.aten.families import COSTLY, SCALING
from pitome_fx.passes.aten.nodes import is_tensor
from pitome_fx.passes.aten.operands import value_operands
from pitome_fx.passes.detect.paths import Paths
from pitome_fx.passes.detect.sites import Site
from pitome_fx.passes.tokens.dims import Dim, amounts


def reachable(roots: Iterable[Node], order: dict[Node, int], *, forward: bool) -> set[Node]:
    """The nodes of the graph downstream (or upstream) of the roots, and these."""
    seen: set[Node] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in seen and node in order:
            seen.add(node)
            users = [user for user in node.users if node in value_operands(user)]
            stack += users if forward else value_operands(node)
    return seen


class Kind(IntEnum):
    """How a value that went past the attention meets what came out of it; the best one first."""

    STREAM = 0
    """The stream itself, channel by channel; it is left if the attention says nothing."""
    PROJECTED = 1
    """Something computed from every token: a shift, or a stream that changes its width."""
    GATE = 2
    """The stream itself, as a factor."""


@dataclass(frozen=True)
class Join:
    """A node where tokens meet what came past the attention."""

    node: Node
    kind: Kind


def merge_point(
    site: Site, tokens: Dim, paths: Paths, before: set[Node], attending: Collection[Node]
) -> Node | None:
    """The fan-out of the residual stream after the attention has joined it.

    None if no token gets past the attention but through it.

    Args:
        before: what queries and keys are computed from.
        attending: the nodes of all attention sites.
    """
    best: Join | None = None
    for join in _joins(site, tokens, paths, before, attending):
        if best is None or join.kind < best.kind:
            best = join
        if best.kind is Kind.STREAM:
            break
    return None if best is None else _fan_out(best.node, tokens, paths)


def _joins(
    site: Site, tokens: Dim, paths: Paths, before: set[Node], attending: Collection[Node]
) -> Iterator[Join]:
    """The joins behind a site in graph order; of those behind the next one that it feeds, the
    first only: further ones belong to other blocks."""
    after = {site.node}
    node, passed, found = site.node, False, False
    while node.op != "output" and not (passed and found):
        node = node.next
        sources = value_operands(node)
        if not any(source in after for source in sources):
            continue
        after.add(node)
        passed |= node in attending
        if not paths.carries(node, tokens):
            continue
        operands = [n for n in paths.operands(node) if paths.carries(n, tokens)]
        if all(n in after for n in operands) or not any(n in after for n in operands):
            continue
        kind = _kind(node, operands, after, tokens, paths, before)
        if kind is not None:
            found = True
            yield Join(node, kind)


def _kind(
    node: Node, operands: list[Node], after: set[Node], tokens: Dim, paths: Paths, before: set[Node]
) -> Kind | None:
    """What the operands make of each other, None where no stream is among them."""
    past = [
        n
        for n in operands
        if n not in after
        and n.meta["val"].dtype.is_floating_point
        and paths.keeps(node, n, tokens)
        and paths.leads_from(before, n, tokens)
    ]
    if not past:
        return None
    itself = any(paths.leads_from(before, n, tokens, whole=True) for n in past)
    if node.target in SCALING or node.target in COSTLY:
        return Kind.GATE if itself else None
    return Kind.STREAM if itself else Kind.PROJECTED


def _fan_out(join: Node, tokens: Dim, paths: Paths) -> Node | None:
    """Follow the stream while it has one user that keeps all of it: past norms and outer sums.

    Views and permutations alone lead no further. None if the tokens are nowhere a dimension of
    their own.
    """
    node, point = join, None
    while True:
        if paths.dims(node).count(tokens) == 1 and (
            point is None or not _is_rearranged(node, paths)
        ):
            point = node
        users = list(node.users)
        if len(users) != 1 or users[0].target in COSTLY or not is_tensor(users[0]):
            return point
        if users[0].op == "output" or not _keeps_stream(users[0], node, tokens, paths):
            return point
        node = users[0]


def _keeps_stream(user: Node, node: Node, tokens: Dim, paths: Paths) -> bool:
    """Does all of the stream go on? What the node itself put beside it (a stack) may go."""
    held = {root for n in paths.operands(node) for root in amounts(paths.dims(n))}
    axes = {atom.axis for dim in paths.dims(node) for atom in dim}
    stream = {axis for axis in axes if axis.within() in held}
    return paths.keeps(user, node, tokens) and stream <= paths.hands_on(user, node)


def _is_rearranged(node: Node, paths: Paths) -> bool:
    """Does the op only look at its operand in another way?"""
    target = node.target
    return (
        isinstance(target, torch._ops.OpOverload)
        and any(result.alias_info is not None for result in target._schema.returns)
        and any(paths.dims(n) != paths.dims(node) for n in paths.operands(node)[:1])
    )

"""What meets scores on their way to the values, read as masks and biases."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from pitome_fx.passes.aten.families import ADDITIONS, ADDMM, FILLING, SCALING, SUMS, WHERE
from pitome_fx.passes.aten.nodes import is_one, rank_of
from pitome_fx.passes.detect.marks import Mark, Marks
from pitome_fx.passes.detect.mask import Mask, MaskUse
from pitome_fx.passes.detect.masks import Masks
from pitome_fx.passes.detect.products import arguments
from pitome_fx.passes.detect.scores import Meeting, Weighing

aten = torch.ops.aten

READ = (*WHERE, *FILLING, *SUMS, *ADDMM, *SCALING)
"""Ops that say by themselves how a mask meets scores."""

STRUCTURED = (
    "structured attention mask: which keys a query sees differs between queries, "
    "and that cannot be shown to survive merging"
)


def masks_of(
    found: Weighing, queries: frozenset[Mark], marks: Marks, masks: Masks
) -> tuple[list[Mask], str]:
    """The masks and biases that scores meet, and why one of them cannot be read, '' if all can."""
    read: list[Mask] = []
    reason = ""
    for meeting in found.weights.meetings:
        at = marks.places(meeting.dims, queries), marks.places(meeting.dims, found.keys)
        if all(_is_alike(meeting.operand, place) for place in at[1]) or _is_filler(meeting, masks):
            continue
        places = [place for side in at for place in side]
        whole = all(marks.is_whole(meeting.dims[place]) for place in places)
        learned = masks.is_learned(meeting.operand)
        if (len(at[0]), len(at[1])) == (1, 1) and whole and meeting.consumer.target in READ:
            before = found.weights.weighing and not meeting.weighing
            read.append(_as_mask(meeting, at[0][0], at[1][0], scales=not (before and learned)))
        elif not learned:
            differs = any(masks.differs_between_queries(meeting.operand, q) for q in at[0])
            reason = STRUCTURED if differs or not at[0] else _unreadable(meeting)
    return read, reason


def _is_alike(operand: Node, place: int) -> bool:
    """Has it one value for all keys (a row's maximum, say), so that it hides none?"""
    return rank_of(operand) < -place or is_one(operand.meta["val"].shape[place])


def _is_filler(meeting: Meeting, masks: Masks) -> bool:
    """Is it what hidden scores are replaced by, the same for every query? The condition hides."""
    node, args = meeting.consumer, meeting.consumer.args
    return (
        node.target in WHERE
        and args[0] is not meeting.operand
        and not masks.differs_between_queries(meeting.operand)
    )


def _as_mask(meeting: Meeting, queries: int, keys: int, *, scales: bool) -> Mask:
    """How the tensor meets scores, or weights.

    Args:
        scales: a product with it hides keys where it is 0. Scores of 0 may become weights of 0,
            by a square or by what fills them; only learned factors of scores have no such meaning.
    """
    node: Any = meeting.consumer
    operand = meeting.operand
    use, scale = MaskUse.KEEPS, 1.0
    adds = node.target in (*ADDITIONS, *ADDMM)
    if node.target in FILLING or (node.target in WHERE and node.args[1] not in meeting.scores):
        use = MaskUse.FILLS
    elif node.target in SCALING and scales:
        use = MaskUse.SCALES
    elif node.target in SUMS:
        scale = _sign(node, operand)
        adds &= node.kwargs.get("alpha", 1) == 1
    elif node.target in ADDMM:
        scale = float(arguments(node).get("beta", 1))
    plain = adds and scale == 1 and not meeting.weighing and (queries, keys) == (-2, -1)
    return Mask(operand, node, use, plain, scale, queries, keys)


def _sign(node: Node, operand: Node) -> float:
    """What a summand is multiplied with in a sum or difference."""
    alpha = float(node.kwargs.get("alpha", 1))  # type: ignore[arg-type]
    first = node.args[0] is operand
    if node.target == aten.rsub.Tensor:
        return -alpha if first else 1.0
    if first:
        return 1.0
    return alpha if node.target in ADDITIONS else -alpha


def _unreadable(meeting: Meeting) -> str:
    return (
        f"unknown attention mask: {meeting.operand} meets scores in {meeting.consumer.target}, "
        "which does not tell what it hides, or where queries or keys share a dimension with "
        "others; mask scores by a sum, torch.where or masked_fill"
    )

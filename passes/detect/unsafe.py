"""What in a program forbids to merge before it: writes into tokens, and walks through memory."""

from __future__ import annotations

import torch
from torch.fx import Node

from pitome_fx.passes.capture.functional import aliases
from pitome_fx.passes.capture.program import Program
from pitome_fx.passes.detect.stream import reachable
from pitome_fx.passes.failures import module_path
from pitome_fx.passes.replay.labels import Labels
from pitome_fx.passes.tokens.dims import Dim
from pitome_fx.passes.tokens.sizes import same_size

aten = torch.ops.aten


class Refusal(Exception):
    """Why a site cannot merge."""


def refuse_writes(
    program: Program, point: Node, tokens: Dim, labels: Labels, order: dict[Node, int]
) -> None:
    """No merge may come before a write into a token tensor: it would go to an unmerged copy."""
    after = reachable([point], order, forward=True) if program.writes else set()
    for write in program.writes:
        touched = {*write.all_input_nodes, *aliases(write, order)}
        if any(node in after and _carries(labels, node, tokens) for node in touched):
            where = module_path(write) or "the graph"
            raise Refusal(
                f"an in-place write ({write.target}) in {where} aliases a token tensor and "
                "would be lost on merged tokens; write out of place there"
            )


def refuse_strides(program: Program, point: Node, order: dict[Node, int]) -> None:
    """No merge may come before a walk through memory that is not the operand's alone."""
    ops = (aten.as_strided.default, aten.as_strided_copy.default, aten.as_strided_scatter.default)
    nodes = program.graph.graph.nodes
    strided = [node for node in nodes if node.target in ops]
    after = reachable([point], order, forward=True) if strided else set()
    for node in strided:
        operand = node.args[0].meta["val"]
        own = operand.numel() * operand.element_size()
        if node in after and not same_size(operand.untyped_storage().nbytes(), own):
            raise Refusal(
                f"{node.target} in {module_path(node) or 'the graph'} reads beyond the tensor that "
                "it is given, and merged tokens lie elsewhere; make it contiguous, or use unfold"
            )


def _carries(labels: Labels, node: Node, tokens: Dim) -> bool:
    """Has the node's value these tokens, or some of them, along a dimension?"""
    axes = {atom.axis for atom in tokens}
    dims = labels.dims.get(node)
    return isinstance(dims, tuple) and any(
        atom.axis in axes or atom.axis.base in axes for dim in dims for atom in dim
    )

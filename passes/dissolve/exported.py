"""Exported programs: what they stand for, and their pitome ops dissolved."""

from __future__ import annotations

from typing import Any

from torch.export import ExportedProgram

from pitome_fx.lowerings import Form
from pitome_fx.ops import is_pitome_op
from pitome_fx.passes.capture.guards import tentative
from pitome_fx.passes.dissolve.dissolving import dissolve
from pitome_fx.passes.dissolve.rebuild import rebuilt


def inputs_of(exported: ExportedProgram) -> list[Any]:
    """What the placeholders stand for: fake tensors, ints and SymInts."""
    return [node.meta["val"] for node in exported.graph.find_nodes(op="placeholder")]


def in_form(program: ExportedProgram, form: Form) -> ExportedProgram:
    """A transformed program with its pitome ops dissolved; the program itself if it has none.

    Args:
        form: as in ``Options``.
    """
    if not any(is_pitome_op(node.target) for node in program.graph.nodes):
        return program
    inputs = inputs_of(program)
    with tentative(inputs) as guards:
        graph = dissolve(program.graph_module, inputs, form)
        guards.hand_on()
        return rebuilt(program, graph)

"""An ExportedProgram around another graph."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from torch.export import ExportedProgram, ModuleCallEntry
from torch.export.graph_signature import ExportGraphSignature
from torch.fx import GraphModule, Node

from pitome_fx.passes.dissolve.returning_groups import returning_groups
from pitome_fx.passes.rewrite.merged_outputs import MergedOutput


def rebuilt(
    exported: ExportedProgram, graph: GraphModule, merged: Sequence[MergedOutput] | None = None
) -> ExportedProgram:
    """A new ExportedProgram around a rewritten graph with the same flat inputs and outputs.

    Args:
        merged: outputs whose groups the graph returns behind the others, so that the program
            returns ``(output, groups)``; None where it returns its output as before.
    """
    _name_inputs(exported, graph)
    signature = exported.graph_signature
    old_outputs = _outputs(exported)
    new_outputs = _outputs(graph)[: len(old_outputs)]
    renamed = {
        before.name: after.name
        for before, after in zip(old_outputs, new_outputs, strict=True)
        if isinstance(before, Node) and isinstance(after, Node)
    }
    # By place and not by name: what is written may be dense, and merged where it is returned.
    outputs = [
        replace(spec, arg=_named(spec.arg, node))
        for spec, node in zip(signature.output_specs, new_outputs, strict=True)
    ]
    calls = [_renamed_call(entry, renamed) for entry in exported.module_call_graph]
    if merged is not None:
        outputs, calls[0] = returning_groups(graph.graph, outputs, calls[0], merged)
    graph.recompile()
    return ExportedProgram(
        root=graph,
        graph=graph.graph,
        graph_signature=ExportGraphSignature(list(signature.input_specs), outputs),
        state_dict=exported.state_dict,
        range_constraints=exported.range_constraints,
        module_call_graph=calls,
        example_inputs=exported.example_inputs,
        constants=exported.constants,
        verifiers=exported.verifiers,
    )


def without_groups(exported: ExportedProgram) -> ExportedProgram:
    """The program as it is, returning ``(output, groups)`` where no output has any."""
    dense = exported.graph_module
    return rebuilt(exported, GraphModule(dense, copy.deepcopy(dense.graph)), ())


def _name_inputs(exported: ExportedProgram, graph: GraphModule) -> None:
    """The inputs of the graph get the names that they have in the program."""
    old_inputs = exported.graph.find_nodes(op="placeholder")
    taken = {node.name for node in (*old_inputs, *graph.graph.nodes)}
    inputs = {node.name for node in old_inputs}
    for node in graph.graph.nodes:
        if node.op != "placeholder" and node.name in inputs:
            name = next(n for i in count() if (n := f"{node.name}_value{i or ''}") not in taken)
            taken.add(name)
            node._rename(name)
    for old, new in zip(old_inputs, graph.graph.find_nodes(op="placeholder"), strict=True):
        new.name = new.target = old.name
        new.meta.setdefault("val", old.meta.get("val"))


def _outputs(graph: GraphModule | ExportedProgram) -> Sequence[Any]:
    returned: Any = graph.graph.output_node().args[0]
    return returned


def _named(argument: Any, node: Any) -> Any:
    """An argument of an export signature under the name of its node, if it is one."""
    return replace(argument, name=node.name) if isinstance(node, Node) else argument


def _renamed(argument: Any, names: Mapping[str, str]) -> Any:
    """An argument of an export signature under its new name."""
    name = getattr(argument, "name", "")
    return replace(argument, name=names[name]) if name in names else argument


def _renamed_call(entry: ModuleCallEntry, names: Mapping[str, str]) -> ModuleCallEntry:
    if entry.signature is None:
        return entry
    outputs = [_renamed(argument, names) for argument in entry.signature.outputs]
    return replace(entry, signature=replace(entry.signature, outputs=outputs))

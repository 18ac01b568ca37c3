"""An ExportedProgram around another graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch.export import ExportedProgram, ModuleCallEntry
from torch.export.graph_signature import ExportGraphSignature
from torch.fx import GraphModule


def rebuilt(exported: ExportedProgram, graph: GraphModule) -> ExportedProgram:
    """A new ExportedProgram around a rewritten graph with the same flat inputs and outputs."""
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
    renamed = _output_names(exported, graph)
    graph.recompile()
    signature = exported.graph_signature
    outputs = [replace(spec, arg=_renamed(spec.arg, renamed)) for spec in signature.output_specs]
    calls = [_renamed_call(entry, renamed) for entry in exported.module_call_graph]
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


def _renamed(argument: Any, names: Mapping[str, str]) -> Any:
    """An argument of an export signature under its new name."""
    name = getattr(argument, "name", "")
    return replace(argument, name=names[name]) if name in names else argument


def _renamed_call(entry: ModuleCallEntry, names: Mapping[str, str]) -> ModuleCallEntry:
    if entry.signature is None:
        return entry
    outputs = [_renamed(argument, names) for argument in entry.signature.outputs]
    return replace(entry, signature=replace(entry.signature, outputs=outputs))


def _output_names(exported: ExportedProgram, graph: GraphModule) -> dict[str, str]:
    """Names of the outputs in the old graph → in the new one."""
    old: Any = exported.graph.output_node().args[0]
    new: Any = graph.graph.output_node().args[0]
    return {
        before.name: after.name
        for before, after in zip(old, new, strict=True)
        if isinstance(before, torch.fx.Node) and isinstance(after, torch.fx.Node)
    }

"""A program as a flat list of calls of compiled regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.fx import GraphModule, Node

from pitome_fx.backends.lowering import Compiled
from pitome_fx.passes.failures import module_path
from pitome_fx.passes.regions.structure import Region


@dataclass(frozen=True)
class Step:
    """A region and what runs it: takes the values of its symbols, then its inputs."""

    function: Compiled
    counts: tuple[int, ...]
    region: Region


@dataclass(frozen=True)
class Call:
    """One call of a compiled region; values that cross a cut have slots.

    Attributes:
        counts: the symbols' values.
        inputs, outputs: slots.
        done: slots that nobody reads any more.
        name: for profilers.
    """

    function: Compiled
    counts: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    done: tuple[int, ...]
    name: str


def program(graph: GraphModule, steps: Sequence[Step]) -> Compiled:
    """Runs regions one after another, and frees what none of the later ones reads."""
    own = [node for node in graph.graph.nodes if node.op in ("placeholder", "get_attr")]
    crossing = [step.region.nodes[i] for step in steps for i in step.region.outputs]
    slot = {node: i for i, node in enumerate(dict.fromkeys((*_inputs_first(own), *crossing)))}
    constants = {slot[n]: attrgetter(str(n.target))(graph) for n in own if n.op == "get_attr"}
    (output,) = graph.graph.find_nodes(op="output")
    read = set(output.all_input_nodes)
    calls: list[Call] = []
    for step in reversed(steps):
        region = step.region
        outputs = [region.nodes[i] for i in region.outputs]
        done = {node for node in (*region.inputs, *outputs) if node not in read}
        read |= set(region.inputs)
        taken, given, free = (
            tuple(slot[node] for node in nodes) for nodes in (region.inputs, outputs, done)
        )
        name = f"pitome: {module_path(region.nodes[0]) or region.nodes[0].name}"
        calls.append(Call(step.function, step.counts, taken, given, free, name))
    return _runner(calls[::-1], len(slot), constants, _Output.of(output.args[0], slot))


def _inputs_first(nodes: Sequence[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: node.op != "placeholder")


@dataclass(frozen=True)
class _Output:
    """What the program returns: slots, and in their place values that no region computes."""

    leaves: tuple[int | None, ...]
    fixed: tuple[Any, ...]
    spec: pytree.TreeSpec

    @classmethod
    def of(cls, returned: Any, slot: dict[Node, int]) -> _Output:
        leaves, spec = pytree.tree_flatten(returned)
        slots = (slot[x] if isinstance(x, Node) else None for x in leaves)
        return cls(tuple(slots), tuple(leaves), spec)

    def read(self, values: Sequence[Any]) -> Any:
        pairs = zip(self.leaves, self.fixed, strict=True)
        found = [fixed if i is None else values[i] for i, fixed in pairs]
        return pytree.tree_unflatten(found, self.spec)


def _runner(
    calls: Sequence[Call], slots: int, constants: dict[int, Any], output: _Output
) -> Compiled:
    def run(*args: Any) -> Any:
        values: list[Any] = [*args, *[None] * (slots - len(args))]
        for i, constant in constants.items():
            values[i] = constant
        del args
        for call in calls:
            operands = [values[i] for i in call.inputs]
            if torch.autograd._profiler_enabled():
                with torch.profiler.record_function(call.name):
                    results = call.function(*call.counts, *operands)
            else:
                results = call.function(*call.counts, *operands)
            del operands
            for i, result in zip(call.outputs, results, strict=True):
                values[i] = result
            del results
            for i in call.done:
                values[i] = None
        return output.read(values)

    return run

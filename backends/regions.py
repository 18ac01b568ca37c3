"""A merged graph as a list of calls of compiled regions; regions that are alike are compiled once.

Compiled regions are kept for as long as the process lives, so that the same model at another ratio
or of another depth compiles only what it has of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch.fx import GraphModule, Interpreter, Node

from pitome_fx.passes.regions.atoms import attribute
from pitome_fx.passes.regions.cutting import Cut
from pitome_fx.passes.regions.structure import Region
from pitome_fx.passes.regions.symbolic import Shape, Symbolic, symbolic

logger = logging.getLogger(__name__)

Compiled = Callable[..., Any]
Compile = Callable[[GraphModule, list[Any]], Compiled]


class NotAsTracedError(Exception):
    """A region yields something else than the graph's metadata says."""


@dataclass(frozen=True)
class Kind:
    """A compiled kind of region.

    Attributes:
        call: takes the symbols' values, then the inputs.
        trained: for each output, does it require gradients?
    """

    shape: Shape
    symbolic: Symbolic
    call: Compiled
    trained: tuple[bool, ...]

    def values_for(self, region: Region) -> tuple[int, ...] | None:
        """The symbols' values in a region, None where this is not its kind."""
        values = self.shape.values(region.ints)
        return values if values is not None and self.symbolic.holds_for(values) else None


KINDS: dict[Hashable, list[Kind]] = {}
"""All that this process has compiled, by what they depend on."""


def compile_regions(
    graph: GraphModule,
    inputs: Sequence[Any],
    cut: Cut,
    compile_one: Compile,
    setting: Hashable,
) -> Compiled:
    """What runs the graph region by region.

    Args:
        inputs: example inputs of the graph.
        cut: its regions.
        compile_one: compiles the graph of a kind.
        setting: all that a compile depends on beside its graph.

    Raises:
        NotAsTracedError: a region yields something else than the graph's metadata says.
    """
    placeholders = graph.graph.find_nodes(op="placeholder")
    trained: dict[Node, bool] = {
        node: isinstance(x, Tensor) and x.requires_grad
        for node, x in zip(placeholders, inputs, strict=True)
    }
    alike = {key: Shape.of(own) for key, own in cut.kinds.items()}
    steps: list[tuple[Kind, tuple[int, ...], Region]] = []
    compiled = 0
    for region in cut.regions:
        flags = tuple(trained.get(node, False) for node in region.inputs)
        known = KINDS.setdefault((region.key, tuple(region.outputs), flags, setting), [])
        found = _find(known, region)
        if found is None:
            found = _compile(region, alike[region.key], flags, compile_one)
            known.append(found[0])
            compiled += 1
        kind, values = found
        outputs = (region.nodes[i] for i in region.outputs)
        trained.update(zip(outputs, kind.trained, strict=True))
        steps.append((kind, values, region))
    logger.info("%d regions of %d kinds, %d compiled", len(steps), len(cut.kinds), compiled)
    return _program(graph, steps)


def _find(known: Sequence[Kind], region: Region) -> tuple[Kind, tuple[int, ...]] | None:
    for kind in known:
        values = kind.values_for(region)
        if values is not None:
            return kind, values
    return None


def _compile(
    region: Region, shape: Shape, trained: Sequence[bool], compile_one: Compile
) -> tuple[Kind, tuple[int, ...]]:
    """Compile the kind of a region, as general as those that it was cut with."""
    traced = symbolic(region, shape, trained)
    values = shape.values(region.ints)
    assert values is not None
    # Nothing of this must reach the guards of the program that is being compiled.
    with tracing(TracingContext(traced.mode)):
        outputs = _trained_outputs(traced, region, values)
        call = compile_one(traced.graph, traced.inputs)
    return Kind(shape, traced, call, outputs), values


def _trained_outputs(
    traced: Symbolic, region: Region, values: Sequence[int]
) -> tuple[bool, ...]:
    """Which outputs require gradients; they must be laid out as the graph says."""
    with traced.mode:
        found = Interpreter(traced.graph).run(*traced.inputs)
    for i, value in zip(region.outputs, found, strict=True):
        wanted = region.nodes[i].meta["val"]
        if not isinstance(value, Tensor) or not isinstance(wanted, Tensor):
            raise NotAsTracedError(f"{region.nodes[i].name} is no tensor")
        own = [traced.at(n, values) for n in (*value.shape, *value.stride())]
        if (value.dtype, own) != (wanted.dtype, [*wanted.shape, *wanted.stride()]):
            raise NotAsTracedError(f"{region.nodes[i].name} is laid out otherwise than traced")
    return tuple(value.requires_grad for value in found)


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


def _program(graph: GraphModule, steps: Sequence[tuple[Kind, tuple[int, ...], Region]]) -> Compiled:
    """Runs regions one after another, and frees what none of the later ones reads."""
    own = [node for node in graph.graph.nodes if node.op in ("placeholder", "get_attr")]
    crossing = [region.nodes[i] for *_, region in steps for i in region.outputs]
    slot = {node: i for i, node in enumerate(dict.fromkeys((*own, *crossing)))}
    constants = {slot[n]: attribute(graph, str(n.target)) for n in own if n.op == "get_attr"}
    (output,) = graph.graph.find_nodes(op="output")
    read = set(output.all_input_nodes)
    calls: list[Call] = []
    for kind, counts, region in reversed(steps):
        outputs = [region.nodes[i] for i in region.outputs]
        done = {node for node in (*region.inputs, *outputs) if node not in read}
        read |= set(region.inputs)
        places = (tuple(slot[node] for node in nodes) for nodes in (region.inputs, outputs, done))
        calls.insert(0, Call(kind.call, counts, *places, _name(region)))
    return _runner(calls, len(slot), constants, _slots_of(output.args[0], slot))


@dataclass(frozen=True)
class _Slot:
    number: int


def _slots_of(output: Any, slot: dict[Node, int]) -> Any:
    """What the graph returns, with slots for nodes."""
    return torch.fx.node.map_aggregate(
        output, lambda x: _Slot(slot[x]) if isinstance(x, Node) else x
    )


def _name(region: Region) -> str:
    """Where in the model its first op comes from."""
    stack = region.nodes[0].meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return f"pitome: {path or region.nodes[0].name}"


def _runner(
    calls: Sequence[Call], slots: int, constants: dict[int, Any], output: Any
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
        return pytree.tree_map_only(_Slot, lambda at: values[at.number], output)

    return run

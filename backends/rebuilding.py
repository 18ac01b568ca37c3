"""Python source that builds a Dynamo graph again, with inputs like those it was made for.

Shapes, strides and what shares memory are as they were; values are random, and zero where they are
integers, which are valid indices everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.debug_utils import InputWriter, NNModuleToString
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph_module import _format_import_block
from torch.package.importer import sys_importer

from pitome_fx.errors import PitomeError
from pitome_fx.passes.capture.guards import is_symbolic
from pitome_fx.passes.capture.program import holds_buffer, holds_parameter, inputs_of_dynamo
from pitome_fx.passes.capture.subclasses import is_wrapper

INPUTS = """\
{loading}


def inputs():
    torch.manual_seed(0)
    reader = InputReader()
    load_args(reader)
    args = reader.args
    for i in {parameters}:
        args[i] = torch.nn.Parameter(args[i], args[i].requires_grad)
    for i in {buffers}:
        torch._dynamo.mark_static_address(args[i])
    for i, dims in {static}.items():
        torch._dynamo.mark_static(args[i], dims)
    return args
"""


class NotWrittenError(PitomeError):
    """A graph, or what it needs, cannot be written out as Python."""


def sources_of(graph: GraphModule, name: str) -> Iterator[str]:
    """A class that is the graph, after the imports and the inner graphs that it needs."""
    inner = {key: part for key, part in graph.named_children() if isinstance(part, GraphModule)}
    for key, part in inner.items():
        yield from sources_of(part, f"{name}_{key}")
    imports = _format_import_block(graph.graph.python_code("self").globals, sys_importer)
    if "from __main__ " in imports:
        raise NotWrittenError("it calls a function of the script itself")
    yield imports
    outer = GraphModule(graph, graph.graph)
    for key in inner:
        delattr(outer, key)
    text = NNModuleToString.convert(outer).replace("class Repro(", f"class {name}(", 1)
    start = "super().__init__()"
    made = "".join(f"\n        self.{key} = {name}_{key}()" for key in inner)
    yield text.replace(start, start + made, 1)


def with_sizes_of_inputs(
    graph: GraphModule, inputs: Sequence[Any]
) -> tuple[GraphModule, list[int]]:
    """The graph without inputs that are the size of another, and the positions of those it keeps.

    Compiled again, such an input would be a number that has nothing to do with that size.
    """
    fakes: list[Any] = inputs_of_dynamo(graph, inputs)
    values: dict[Node, Node] = {}
    copied = Graph()
    output = copied.graph_copy(graph.graph, values)
    copied.output(output)
    placeholders = [values[node] for node in graph.graph.find_nodes(op="placeholder")]
    places = {
        fake.shape[dim].node.expr: (placeholder, dim)
        for placeholder, fake in zip(placeholders, fakes, strict=True)
        for dim in _symbolic_dims(fake)
    }
    kept = []
    computing = next(node for node in copied.nodes if node.op != "placeholder")
    for i, (placeholder, fake) in enumerate(zip(placeholders, fakes, strict=True)):
        place = places.get(fake.node.expr) if isinstance(fake, torch.SymInt) else None
        if place is None:
            kept.append(i)
            continue
        with copied.inserting_before(computing):
            size = copied.call_method("size", place)
        placeholder.replace_all_uses_with(size)
        copied.erase_node(placeholder)
    return GraphModule(graph, copied), kept


def source_of_inputs(graph: GraphModule, inputs: Sequence[Any], kept: Sequence[int]) -> str:
    """Functions ``load_args`` and ``inputs``, as torch's own reproducers have the first of them.

    Args:
        kept: positions of the inputs that the graph is to have.
    """
    placeholders = graph.graph.find_nodes(op="placeholder")
    fakes = inputs_of_dynamo(graph, inputs)
    writer = InputWriter(None)
    parameters: list[int] = []
    buffers: list[int] = []
    static: dict[int, list[int]] = {}
    for position, i in enumerate(kept):
        node, value = placeholders[i], inputs[i]
        if isinstance(value, int | torch.SymInt):
            writer.symint(str(node.target), value)
            continue
        if not isinstance(value, Tensor) or is_wrapper(value):
            raise NotWrittenError(f"its input {node.target} is a {type(value).__name__}")
        writer.tensor(str(node.target), value)
        if holds_parameter(node, value):
            parameters.append(position)
        elif holds_buffer(node):
            buffers.append(position)
        else:
            static[position] = sorted({*range(value.dim())} - {*_symbolic_dims(fakes[i])})
    loading = "\n".join(writer.lines())
    return INPUTS.format(
        loading=loading,
        parameters=parameters,
        buffers=buffers,
        static=static if any_symbolic(graph, inputs) else {},
    )


def _symbolic_dims(value: Any) -> list[int]:
    """Which dimensions of a tensor are of any size."""
    shape = value.shape if isinstance(value, Tensor) else ()
    return [dim for dim, size in enumerate(shape) if isinstance(size, torch.SymInt)]


def any_symbolic(graph: GraphModule, inputs: Sequence[Any]) -> bool:
    """Was the graph made for several sizes?"""
    return any(is_symbolic(fake) for fake in inputs_of_dynamo(graph, inputs))

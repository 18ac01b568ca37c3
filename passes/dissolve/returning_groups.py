"""An exported program that returns ``(output, groups)`` in place of its output.

``groups`` is made like the output: ``Groups`` where it has a merged tensor, None elsewhere. A part
of the output without any merged tensor is one None, since it may be of a class that takes no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch.utils._pytree as pytree
from torch.export import ExportedProgram, ModuleCallEntry
from torch.export.graph_signature import (
    ConstantArgument,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import Graph, Node
from torch.utils._pytree import TreeSpec

from pitome_fx.groups import Groups
from pitome_fx.passes.rewrite.merged_outputs import MergedOutput

LEAF: TreeSpec = pytree.treespec_leaf()


def _positions(specs: Sequence[OutputSpec]) -> list[int]:
    """Of all outputs of a graph those that the caller gets; others are writes to its inputs."""
    return [i for i, spec in enumerate(specs) if spec.kind is OutputKind.USER_OUTPUT]


def returning_groups(
    graph: Graph, specs: Sequence[OutputSpec], call: ModuleCallEntry, merged: Sequence[MergedOutput]
) -> tuple[list[OutputSpec], ModuleCallEntry]:
    """The outputs of a program and its call, with groups.

    Args:
        graph: returns sizes and assignment of each merged output behind what ``specs`` speak of;
            None is put between these where ``groups`` has it.
    """
    signature = call.signature
    assert signature is not None
    by_position = {output.position: output for output in merged}
    leaves = (_spec(by_position[i]) if i in by_position else None for i in _positions(specs))
    found = _without_empty(signature.out_spec, leaves)
    groups = LEAF if found is None else found
    output = graph.output_node()
    returned: Any = output.args[0]
    added = list(_values(groups, iter(returned[len(specs) :])))
    output.args = ((*returned[: len(specs)], *added),)
    arguments = [_argument(value) for value in added]
    pair = pytree.treespec_tuple([signature.out_spec, groups])
    more = [OutputSpec(OutputKind.USER_OUTPUT, argument, None) for argument in arguments]
    return [*specs, *more], replace(call, signature=replace(signature, out_spec=pair))


def _spec(output: MergedOutput) -> TreeSpec:
    return TreeSpec(Groups, (output.dim, output.batch), [LEAF, LEAF])


def _without_empty(spec: TreeSpec, leaves: Iterator[TreeSpec | None]) -> TreeSpec | None:
    """The structure with others for its leaves; None where there is none in it."""
    if spec.is_leaf():
        return next(leaves)
    children = [_without_empty(child, leaves) for child in spec.children()]
    if all(child is None for child in children):
        return None
    return TreeSpec(
        spec.type, spec.context, [LEAF if child is None else child for child in children]
    )


def _values(spec: TreeSpec, tensors: Iterator[Node]) -> Iterator[Node | None]:
    """What the leaves of the structure hold."""
    if spec.is_leaf():
        yield None
    elif spec.type is Groups:
        yield from (next(tensors), next(tensors))
    else:
        for child in spec.children():
            yield from _values(child, tensors)


def _argument(value: Node | None) -> TensorArgument | ConstantArgument:
    return ConstantArgument("", None) if value is None else TensorArgument(value.name)


def user_outputs(program: ExportedProgram) -> dict[int, str]:
    """Position of each output that the caller gets → how, as ``hidden_states[2]``."""
    spec = program.call_spec.out_spec
    assert spec is not None
    return dict(zip(_positions(program.graph_signature.output_specs), _names(spec), strict=True))


def _names(spec: TreeSpec, path: str = "") -> Iterator[str]:
    if spec.is_leaf():
        yield path or "the output"
        return
    keys, children = spec.context, spec.children()
    if not isinstance(keys, list) or len(keys) != len(children):
        keys = range(len(children))
    for key, child in zip(keys, children, strict=True):
        name = f"{path}.{key}".lstrip(".") if isinstance(key, str) else f"{path}[{key}]"
        yield from _names(child, name)

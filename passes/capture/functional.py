"""In-place ops on fresh temporaries become functional; what else writes is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.amp.autocast_mode import _enter_autocast
from torch.fx import GraphModule, Node

MADE_PURE = "pitome_made_pure"
"""Marks, in the metadata of a node, an op that wrote in place and no longer does."""


def functionalise_temporaries(graph: GraphModule) -> tuple[Node, ...]:
    """Replace ``y.op_(…)`` by ``op(y, …)`` where nothing can tell the difference.

    That is where y is a whole tensor made inside the graph and no other alias of it is used
    afterwards. Returns the writes that stay: to inputs, to views, to tensors with live aliases.
    """
    order = {node: i for i, node in enumerate(graph.graph.nodes)}
    autocast = torch._C._is_any_autocast_enabled() or any(
        n.target is _enter_autocast for n in order
    )
    kept: list[Node] = []
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if not is_write(node):
            continue
        pure = _pure_variant(node.target)
        target = node.args[0] if node.args else None
        if pure is None or not isinstance(target, Node) or not _is_private(target, node, order):
            kept.append(node)
            continue
        _make_pure(node, target, pure, order)
        if autocast or not _yields_its_dtype(node):
            _cast_back(node)
    graph.recompile()
    return tuple(kept)


def _copied(overwritten: Tensor, x: Tensor, non_blocking: bool = False) -> Tensor:
    never = overwritten.new_zeros((), dtype=torch.bool)
    return torch.where(never, overwritten, x.to(overwritten))


RUN_AS: dict[Any, Callable[..., Any]] = {torch.ops.aten.copy.default: _copied}
"""What computes a pure variant that autograd has no formula for, though it has one in place."""


def _pure_variant(op: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """``aten.add_.Tensor`` → ``aten.add.Tensor``, None if the op writes anything but self."""
    name = op._schema.name.removeprefix("aten::")
    writes = [a for a in op._schema.arguments if a.alias_info and a.alias_info.is_write]
    if len(writes) != 1 or not name.endswith("_") or name.startswith("_"):
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    overloads = [getattr(packet, own) for own in packet.overloads()] if packet is not None else []
    # Overloads need not be called alike: x.pow_(2) is pow.Tensor_Scalar, not pow.Scalar.
    return next((own for own in overloads if _takes_the_same(own, op)), None)


def _takes_the_same(pure: torch._ops.OpOverload, op: torch._ops.OpOverload) -> bool:
    if pure._schema.is_mutable:
        return False
    # What is written is called self; dropout calls it input.
    own, other = (
        [("" if i == 0 else a.name, str(a.real_type), a.kwarg_only) for i, a in enumerate(given)]
        for given in (pure._schema.arguments, op._schema.arguments)
    )
    return own == other


UNKNOWN = "a storage that cannot be asked for"
"""That of sparse tensors and of tensors inside vmap: any two of them may be one."""


def storage_of(node: Node) -> Any:
    """What values that share memory have in common; None of what is no tensor."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    try:
        return value.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return UNKNOWN


def is_write(node: Node) -> bool:
    """Does a node write to any of its operands?"""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def written_operands(write: Node) -> set[Node]:
    """Those that a write changes, not those that it reads."""
    schema: Any = write.target._schema  # type: ignore[union-attr]
    names = [argument.name for argument in schema.arguments]
    given = {**dict(zip(names, write.args, strict=False)), **write.kwargs}
    written = (
        given.get(a.name) for a in schema.arguments if a.alias_info and a.alias_info.is_write
    )
    return {x for value in written for x in pytree.tree_leaves(value) if isinstance(x, Node)}


def written_by(writes: Iterable[Node], nodes: Iterable[Node]) -> frozenset[Node]:
    """All nodes whose values share memory with what a write changes, not with what it reads."""
    changed = {operand for write in writes for operand in written_operands(write)}
    storages = {storage_of(node) for node in changed} - {None}
    return frozenset(node for node in nodes if storage_of(node) in storages)


def aliases(write: Node, nodes: Iterable[Node]) -> set[Node]:
    """All nodes whose values share memory with what a write changes."""
    written = {storage_of(n) for n in write.all_input_nodes} - {None}
    return {node for node in nodes if storage_of(node) in written}


def _is_private(target: Node, write: Node, order: dict[Node, int]) -> bool:
    """Is ``target`` a whole temporary of which no other alias is read after the write?"""
    value = target.meta.get("val")
    if not isinstance(value, Tensor) or target.op != "call_function":
        return False
    same_dtype = (
        isinstance(write.meta.get("val"), Tensor) and write.meta["val"].dtype == value.dtype
    )
    if not same_dtype or write.meta["val"].shape != value.shape or value._base is not None:
        return False
    storage = storage_of(target)
    for node in order:
        own = storage_of(node)
        if node is target or own is None or own != storage or _derives_from(node, write):
            continue
        if node.op != "call_function" or any(
            order[user] > order[write] for user in node.users if user in order
        ):
            return False
    return True


def _derives_from(node: Node, write: Node) -> bool:
    """Is the node the write's result, or made from it by writes and views?"""
    current: object = node
    while isinstance(current, Node):
        if current is write:
            return True
        current = current.args[0] if current.args else None
    return False


def _make_pure(
    node: Node, target: Node, pure: torch._ops.OpOverload, order: dict[Node, int]
) -> None:
    node.target = pure
    node.meta[MADE_PURE] = True
    for user in list(target.users):
        if user is not node and order[user] > order[node]:
            user.replace_input_with(target, node)


def _yields_its_dtype(node: Node) -> bool:
    """Does the pure op yield the dtype that it would have written to? A comparison does not."""
    args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
    value, pure = node.meta["val"], node.target
    if not isinstance(value, FakeTensor) or not callable(pure):
        return False  # A tensor inside vmap cannot be asked.
    with value.fake_mode:
        found: Tensor = pure(*args, **kwargs)
    return found.dtype == value.dtype


def _cast_back(node: Node) -> None:
    """What is written takes the dtype of what it is written to; under autocast, too."""
    with node.graph.inserting_after(node):
        cast = node.graph.call_function(torch.ops.aten.to.dtype, (node, node.meta["val"].dtype))
    cast.meta = dict(node.meta)
    del cast.meta[MADE_PURE]
    node.replace_all_uses_with(cast, delete_user_cb=lambda user: user is not cast)


def written_inputs(graph: GraphModule) -> list[int]:
    """Positions of the placeholders that a run of the graph may write."""
    placeholders = graph.graph.find_nodes(op="placeholder")
    written = {
        storage_of(operand)
        for node in graph.graph.nodes
        if node.op in ("call_function", "call_method")
        for operand in _may_write(node)
    }
    return [i for i, node in enumerate(placeholders) if storage_of(node) in written - {None}]


def _may_write(node: Node) -> list[Node]:
    """The operands that a node may write."""
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return node.all_input_nodes
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    statistics = [a for a in node.target._schema.arguments if a.name.startswith("running_")]
    return node.all_input_nodes if node.target._schema.is_mutable or statistics else []

"""Tensor subclasses: quantised weights, DTensors, whatever else wraps tensors of its own.

On the outside such a tensor is a tensor of some shape and dtype, and that is all a token rule
needs. While a graph is traced, a plain fake tensor stands for it, so that its ops stay whole
(tracing into a quantised ``linear`` would leave its insides behind as constants). In the finished
graph the subclass itself comes in. Two things are then seen to: every op that takes one is called
as the model called it, for a class may define ``torch.nn.functional.linear`` and no ATen op; and
every such call is run once on fake tensors (``rewrite.on_subclasses``), since only the class
knows what it can do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import GraphModule, Node
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from pitome_fx.errors import CaptureError
from pitome_fx.passes.failures import module_path

NOTE = "pitome_fx.call"
"""Where a node keeps how the model called it; tracers hand on what is under ``meta["custom"]``."""


def is_wrapper(value: Any) -> bool:
    """Is it a tensor that wraps others?"""
    return not isinstance(value, FakeTensor) and is_traceable_wrapper_subclass(value)


def wrappers(node: Node) -> list[Any]:
    """The subclass tensors that a node of the model's own graph takes or makes."""
    return [x for n in (*node.all_input_nodes, node) for x in wrappers_in(_recorded(n))]


def _recorded(node: Node) -> Any:
    return node.meta.get("example_value", node.meta.get("val"))


def wrappers_in(value: Any) -> list[Any]:
    """The subclass tensors of a value, however they are nested."""
    return [x for x in pytree.tree_leaves(value) if is_wrapper(x)]


def inner_fake_mode(value: Any) -> FakeTensorMode | None:
    """The fake mode of a fake tensor, or of the tensors that one wraps."""
    if is_wrapper(value):
        inner = (inner_fake_mode(getattr(value, name)) for name in value.__tensor_flatten__()[0])
        return next((mode for mode in inner if mode is not None), None)
    mode = getattr(value, "fake_mode", None)
    return mode if isinstance(mode, FakeTensorMode) else None


def stand_in(value: Any, fake_mode: FakeTensorMode) -> Any:
    """A plain fake tensor with the shape, strides, dtype and device of a subclass tensor.

    Any other value is returned as it is.

    Raises:
        CaptureError: it has no strides (a nested or sparse tensor).
    """
    if not is_wrapper(value):
        return value
    if value.is_nested or value.layout != torch.strided:
        raise CaptureError(
            f"an input is a {type(value).__name__} of layout {value.layout}, whose dimensions are "
            "not those of a dense tensor: pad it to one length to have its tokens merged"
        )
    with fake_mode:
        plain = torch.empty_strided(
            value.shape, value.stride(), dtype=value.dtype, device=value.device
        )
    return plain.requires_grad_(value.requires_grad)


@dataclass(frozen=True)
class Call:
    """How the model called an op on a subclass tensor.

    Attributes:
        op: "call_function" or "call_method".
        target: what it called.
        traced: the ATen op that this is on plain tensors.
        leaves: arguments of the ATen op; None for those that are tensors.
        slots: arguments of the call; a ``_Slot`` says which argument of the ATen op goes there.
    """

    op: str
    target: Any
    traced: Any
    leaves: tuple[Any, ...]
    slots: tuple[Any, dict[str, Any]]

    def on(self, node: Node) -> tuple[Any, Any] | None:
        """The arguments of the call for a node of the ATen op, None if they are others."""
        leaves = _leaves(node.args, node.kwargs)
        plain = tuple(None if isinstance(leaf, Node) else leaf for leaf in leaves)
        if node.target != self.traced or plain != self.leaves:
            return None
        return pytree.tree_map_only(_Slot, lambda slot: leaves[slot.at], self.slots)


@dataclass(frozen=True)
class _Slot:
    at: int


def note_call(node: Node, operands: dict[Node, Node], traced: Sequence[Node]) -> None:
    """Note on the one node that a call was traced to how the model called it.

    Args:
        node: the call, in the model's own graph.
        operands: what stands in the traced graph for its operands.
        traced: the nodes that tracing it added.

    Raises:
        CaptureError: it is no single op, and its class has a say in what it is.
    """
    result = [x for x in pytree.tree_leaves(_recorded(node)) if isinstance(x, Tensor)]
    if not traced and all(is_wrapper(x) for x in result):
        return
    slots = _slots(node, operands, traced[0]) if len(traced) == 1 else None
    if slots is None:
        if not traced or any(_overrides_functions(type(x)) for x in wrappers(node)):
            raise CaptureError(f"{_what(node)} is not a single op of plain tensors")
        return
    only = traced[0]
    leaves = _leaves(only.args, only.kwargs)
    plain = tuple(None if isinstance(leaf, Node) else leaf for leaf in leaves)
    call = Call(node.op, node.target, only.target, plain, slots)
    only.meta["custom"] = {**only.meta.get("custom", {}), NOTE: call}


def _slots(node: Node, operands: dict[Node, Node], only: Node) -> Any:
    """The arguments of a call by where the traced op has them; None if it does not have them."""
    leaves = _leaves(only.args, only.kwargs)
    if not isinstance(only.target, torch._ops.OpOverload):
        return None
    if any(s not in operands or operands[s] not in leaves for s in node.all_input_nodes):
        return None
    given: Any = (tuple(node.args), dict(node.kwargs))
    return pytree.tree_map_only(Node, lambda n: _Slot(leaves.index(operands[n])), given)


def _overrides_functions(cls: Any) -> bool:
    """Does the class define what functions on it do, before they become ops?"""
    default: Any = Tensor.__torch_function__
    own = getattr(cls.__torch_function__, "__func__", cls.__torch_function__)
    return own not in (default.__func__, torch._C._disabled_torch_function_impl)


def _what(node: Node) -> str:
    """A call, in words."""
    name = getattr(node.target, "__name__", str(node.target))
    where = module_path(node)
    return f"{name} on a {kind_of(wrappers(node))}{f' in {where}' if where else ''}"


def cannot_be_traced(node: Node, error: Exception) -> CaptureError:
    """What to say of a call that fails on plain tensors."""
    if node.target == torch.ops.export.access_subclass_inner_tensor.default:
        return CaptureError(
            f"torch.export took apart {node.args[0]}, a {kind_of(wrappers(node))}, and no token "
            'rule sees through that. Use torch.compile(model, backend="pitome"), or take the '
            "weights apart before exporting (torchao.utils.unwrap_tensor_subclass)"
        )
    first_line = str(error).partition("\n")[0]
    return CaptureError(
        f"{_what(node)} cannot be traced on a plain tensor of the same shape "
        f"({type(error).__name__}: {first_line})"
    )


def kind_of(values: Iterable[Any]) -> str:
    """Their classes, for a sentence."""
    return " and a ".join(sorted({type(x).__name__ for x in values}))


def run_as_called(node: Node, args: Any, kwargs: Any) -> Any:
    """Run the ATen op of a node on live arguments, called as the model calls it."""
    call: Call | None = node.meta.get("custom", {}).get(NOTE)
    if call is None:
        return node.target(*args, **kwargs)  # type: ignore[operator]
    leaves = _leaves(args, kwargs)
    args, kwargs = pytree.tree_map_only(_Slot, lambda slot: leaves[slot.at], call.slots)
    return run_call(call.op, call.target, args, kwargs)


def run_call(op: str, target: Any, args: Any, kwargs: Any) -> Any:
    """Call a function or a method, as a node of that op does."""
    if op == "call_method":
        return getattr(args[0], target)(*args[1:], **kwargs)
    return target(*args, **kwargs)


def _leaves(args: Any, kwargs: Any) -> list[Any]:
    """Arguments in order; that of live values is that of the nodes they are the values of."""
    return pytree.tree_leaves((tuple(args), dict(kwargs)))


def restore_calls(graph: GraphModule) -> None:
    """Call what takes a subclass tensor as the model does, no longer as the ATen op it is."""
    for node in list(graph.graph.nodes):
        call: Call | None = node.meta.get("custom", {}).get(NOTE)
        found = None if call is None or node.op != "call_function" else call.on(node)
        if call is None or found is None:
            continue
        args, kwargs = found
        with graph.graph.inserting_before(node):
            new = graph.graph.create_node(call.op, call.target, args, kwargs, name=node.name)
        new.meta.update(node.meta)
        new.meta["example_value"] = node.meta["val"]
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    graph.recompile()


def is_called_otherwise(node: Node) -> bool:
    """Does the model call the op of a node by another name, on a subclass tensor?"""
    return NOTE in node.meta.get("custom", {})


def op_of(node: Node) -> Any:
    """The ATen op that a node runs, however it is called."""
    call: Call | None = node.meta.get("custom", {}).get(NOTE)
    if call is not None and (node.op, node.target) == (call.op, call.target):
        return call.traced
    return node.target

"""What an attention mask means, decided soundly from the graph.

A mask that depends on no graph input may be evaluated. The values of one that does are not
guarded (the next call may bring others), so it counts as padding only if dataflow shows that it
is the same for every query; as a position bias only if its values are learned. The rest is
structured (causal, sliding, block-diagonal…).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx import Node

aten = torch.ops.aten


class MaskKind(enum.Enum):
    """What a mask does to attention."""

    NONE = "no mask, or one that masks nothing"
    PADDING = "the same for every query: some keys are hidden"
    BIAS = "a learned bias on positions"
    CAUSAL = "queries see earlier tokens only"
    STRUCTURED = "queries see different keys"


ROWWISE = (
    aten.expand.default,
    aten.unsqueeze.default,
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten.contiguous.default,
    aten.clone.default,
    aten.alias.default,
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.squeeze.dim,
    aten.slice.Tensor,
    aten.type_as.default,
)
LOGICAL = ("__and__", "__or__", "__xor__", "where", "masked_fill")
CONSTANT_FILL = (
    "zeros",
    "ones",
    "full",
    "zeros_like",
    "ones_like",
    "full_like",
    "new_zeros",
    "new_ones",
    "new_full",
)


def is_masking(values: Tensor) -> Tensor:
    """Where a bool or float mask hides a key: False, −∞, or at most half the lowest float."""
    if values.dtype == torch.bool:
        return ~values
    return values <= torch.finfo(values.dtype).min / 2


@dataclass
class Masks:
    """Answers questions on the masks of one graph.

    Attributes:
        parameters: placeholders that hold parameters.
        constants: placeholders that hold parameters or buffers.
    """

    parameters: frozenset[Node]
    constants: frozenset[Node]
    _kinds: dict[tuple[Node, bool], MaskKind] = field(default_factory=dict)
    _varies: dict[Node, tuple[bool, ...]] = field(default_factory=dict)
    _values: dict[Node, Any] = field(default_factory=dict)
    _numbers: dict[Any, int] = field(default_factory=dict)
    _number_of: dict[Node, int] = field(default_factory=dict)

    def kind(self, mask: Node, hides: bool = False) -> MaskKind:
        """What a mask (…, Q, K) does to the scores; ``hides``: its True hides a key."""
        if (mask, hides) not in self._kinds:
            self._kinds[mask, hides] = self._judge(mask, hides)
        return self._kinds[mask, hides]

    def _judge(self, mask: Node, hides: bool) -> MaskKind:
        value = self.evaluate(mask)
        if value is not None:
            return self._kind_of_value(~value if hides else value)
        if not self.varies_along(mask, -2):
            return MaskKind.PADDING
        if self._is_bias(mask):
            return MaskKind.BIAS
        return MaskKind.CAUSAL if self._has_causal_part(mask) else MaskKind.STRUCTURED

    def _kind_of_value(self, value: Tensor) -> MaskKind:
        hidden = is_masking(value)
        if not bool(hidden.any()) and (value.dtype == torch.bool or not bool(value.any())):
            return MaskKind.NONE
        if value.dim() < 2 or value.shape[-2] == 1 or bool((value == value[..., :1, :]).all()):
            return MaskKind.PADDING
        if not bool(hidden.any()):
            return MaskKind.BIAS
        upper = torch.ones(value.shape[-2:], dtype=torch.bool).triu(1)
        return MaskKind.CAUSAL if bool(hidden[..., upper].all()) else MaskKind.STRUCTURED

    def padding_part(self, mask: Node) -> Node | None:
        """The part of a mask that is the same for every query, None if it has none."""
        if self.evaluate(mask) is None and not self.varies_along(mask, -2):
            return mask
        if mask.target in (aten.add.Tensor, *ROWWISE[2:8]):
            for source in mask.all_input_nodes:
                part = self.padding_part(source) if _rank(source) == _rank(mask) else None
                if part is not None and part not in self.constants:
                    return part
        return None

    def _is_bias(self, node: Node) -> bool:
        """Is it a sum of learned values and of parts that are the same for every query?"""
        if self._is_learned(node):
            return True
        if _rank(node) >= 2 and not self.varies_along(node, -2):
            return True
        if node.target is aten.add.Tensor or node.target in ROWWISE:
            return all(self._is_bias(source) for source in node.all_input_nodes)
        return False

    def _is_learned(self, node: Node) -> bool:
        """Do its values come from parameters alone, perhaps picked by constant indices?"""
        if node in self.parameters:
            return _is_float(node)
        if node.op != "call_function" or not self.depends_on_constants_only(node):
            return False
        floats = [source for source in node.all_input_nodes if _is_float(source)]
        if node.target is aten.linear.default:
            return True
        if not _is_float(node) or not floats or _has_bool_input(node):
            return False
        return all(self._is_learned(source) for source in floats)

    def depends_on_constants_only(self, node: Node) -> bool:
        """Does the node depend on no input of the user?"""
        seen: set[Node] = set()
        stack = [node]
        while stack:
            current = stack.pop()
            if current in seen:
                continue
            seen.add(current)
            if current.op == "placeholder" and current not in self.constants:
                return False
            stack += current.all_input_nodes
        return True

    def _has_causal_part(self, node: Node) -> bool:
        seen: set[Node] = set()
        stack = [node]
        while stack:
            current = stack.pop()
            if current in seen:
                continue
            seen.add(current)
            if current.target in (aten.tril.default, aten.triu.default):
                return True
            value = self.evaluate(current)
            if value is None:
                stack += current.all_input_nodes
            elif (
                value.dim() >= 2
                and value.shape[-2] > 1
                and (value.dtype == torch.bool or value.is_floating_point())
                and self._kind_of_value(value) is MaskKind.CAUSAL
            ):
                return True
        return False

    def varies_along(self, node: Node, dim: int) -> bool:
        """May the values differ along a dimension (counted from the end)?"""
        varies = self.varies(node)
        return -dim <= len(varies) and varies[dim]

    def varies(self, node: Node) -> tuple[bool, ...]:
        """Per dimension: may the values differ along it? Never False unless that is certain."""
        if node not in self._varies:
            shape = node.meta["val"].shape
            known = self._derive(node)
            self._varies[node] = tuple(
                v and not (isinstance(size, int) and size == 1)
                for v, size in zip(known, shape, strict=True)
            )
        return self._varies[node]

    def _derive(self, node: Node) -> tuple[bool, ...]:
        rank = _rank(node)
        value = self.evaluate(node)
        if value is not None:
            return tuple(bool((value != value.narrow(d, 0, 1)).any()) for d in range(rank))
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            return (True,) * rank
        name = node.target._schema.name.removeprefix("aten::")
        if name in CONSTANT_FILL:
            return (False,) * rank
        if name in ("expand", "to", "contiguous", "clone", "alias", "type_as", "expand_as") or (
            torch.Tag.pointwise in node.target.tags or name in LOGICAL
        ):
            return self._broadcast([n for n in node.all_input_nodes if _is_tensor(n)], rank)
        moved = self._moved(node, name, rank)
        return (True,) * rank if moved is None else moved

    def _broadcast(self, sources: list[Node], rank: int) -> tuple[bool, ...]:
        result = [False] * rank
        for source in sources:
            for i, v in enumerate(self.varies(source)[::-1]):
                result[rank - 1 - i] |= v
        return tuple(result)

    def _moved(self, node: Node, name: str, rank: int) -> tuple[bool, ...] | None:
        """Ops that move whole dimensions."""
        source: Any = node.args[0]
        args: Any = node.args
        if name == "index":
            indices = [i for i in args[1] if i is not None]
            if len(indices) == len(args[1]) == _rank(source) and rank == max(map(_rank, indices)):
                return self._broadcast(indices, rank)
            return None
        if not isinstance(source, Node) or not _is_tensor(source):
            return None
        known = list(self.varies(source))
        if name == "unsqueeze":
            known.insert(args[1] % rank, False)
        elif name == "transpose":
            a, b = args[1], args[2]
            known[a], known[b] = known[b], known[a]
        elif name == "permute":
            known = [known[d] for d in args[1]]
        elif name == "slice":
            pass
        elif name == "select":
            del known[args[1]]
        elif name in ("view", "reshape", "squeeze", "flatten", "unflatten"):
            return _regrouped(known, source.meta["val"].shape, node.meta["val"].shape)
        else:
            return None
        return tuple(known)

    def evaluate(self, node: Node) -> Tensor | None:
        """The value of a sub-graph that depends on no graph input, None for any other."""
        if node not in self._values:
            self._values[node] = None if node.op != "call_function" else self._compute(node)
        return self._values[node]

    def _compute(self, node: Node) -> Any:
        arguments = []
        for source in node.all_input_nodes:
            value = self.evaluate(source)
            if value is None:
                return None
            arguments.append(value)
        if not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.is_mutable:
            return None
        if torch.Tag.nondeterministic_seeded in node.target.tags or not _is_tensor(node):
            return None
        if any(not isinstance(size, int) for size in node.meta["val"].shape):
            return None
        feed = dict(zip(node.all_input_nodes, arguments, strict=True))
        args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), feed.__getitem__)
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        with unset_fake_temporarily(), torch.no_grad():
            return node.target(*args, **kwargs)

    def number(self, node: Node) -> int:
        """Equal numbers for sub-graphs that compute the same (value numbering)."""
        if node not in self._number_of:
            if node.op == "call_function":
                args = torch.fx.node.map_arg((node.args, dict(node.kwargs)), self._as_number)
                key: Any = (node.target, repr(args))
            else:
                key = node
            self._number_of[node] = self._numbers.setdefault(key, len(self._numbers))
        return self._number_of[node]

    def _as_number(self, node: Node) -> str:
        return f"#{self.number(node)}"


def _regrouped(known: list[bool], old: Any, new: Any) -> tuple[bool, ...] | None:
    """Variation after a reshape: a new dimension varies if an old one it overlaps does."""
    sizes = [*old, *new]
    if any(not isinstance(size, int) for size in sizes):
        kept = [v for v, size in zip(known, old, strict=True) if not _one(size)]
        if len(kept) != sum(not _one(size) for size in new):
            return None
        rest = iter(kept)
        return tuple(False if _one(size) else next(rest) for size in new)
    result: list[bool] = []
    i, o, n, pending = 0, 1, 1, False
    for size in new:
        n *= size
        while o < n and i < len(old):
            o *= old[i]
            pending |= known[i]
            i += 1
        result.append(pending and size != 1)
        if o == n:
            pending = False
    return tuple(result)


def _one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _rank(node: Node) -> int:
    return node.meta["val"].dim() if _is_tensor(node) else 0


def _is_float(node: Node) -> bool:
    return _is_tensor(node) and node.meta["val"].is_floating_point()


def _has_bool_input(node: Node) -> bool:
    return any(_is_tensor(n) and n.meta["val"].dtype == torch.bool for n in node.all_input_nodes)

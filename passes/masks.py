"""What an attention mask means, decided soundly from the graph.

A mask that depends on no graph input may be evaluated. The values of one that does are not
guarded (the next call may bring others), so it counts as padding only if dataflow shows that it
is the same for every query; as a position bias only if its values are learned. The rest is
structured (causal, sliding, block-diagonal…).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import Node

from pitome_fx.passes.dataflow import Dataflow, is_float, is_one, is_tensor, rank_of

aten = torch.ops.aten


class MaskKind(enum.Enum):
    """What a mask does to attention."""

    NONE = "no mask, or one that masks nothing"
    PADDING = "the same for every query: some keys are hidden"
    BIAS = "a learned bias on positions"
    CAUSAL = "queries see earlier tokens only"
    STRUCTURED = "queries see different keys"


# Ops whose result lines up with their operands at the last two dimensions (queries and keys).
ALIGNED = (
    aten.expand.default,
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten.contiguous.default,
    aten.clone.default,
    aten.alias.default,
    aten.type_as.default,
    aten.add.Tensor,
)


def is_masking(values: Tensor) -> Tensor:
    """Where a bool or float mask hides a key: False, −∞, or at most half the lowest float."""
    if values.dtype == torch.bool:
        return ~values
    return values <= torch.finfo(values.dtype).min / 2


@dataclass
class Masks:
    """Judges the masks of one graph.

    Attributes:
        parameters: placeholders that hold parameters.
        constants: placeholders that hold parameters or buffers.
        dataflow: what is known of the graph's values.
    """

    parameters: frozenset[Node]
    constants: frozenset[Node]
    dataflow: Dataflow = field(default_factory=Dataflow)
    _kinds: dict[tuple[Node, bool], MaskKind] = field(default_factory=dict)

    def kind(self, mask: Node, hides: bool = False) -> MaskKind:
        """What a mask (…, Q, K) does to the scores; ``hides``: its True hides a key."""
        if (mask, hides) not in self._kinds:
            self._kinds[mask, hides] = self._judge(mask, hides)
        return self._kinds[mask, hides]

    def _judge(self, mask: Node, hides: bool) -> MaskKind:
        value = self.dataflow.evaluate(mask)
        if value is not None:
            return _kind_of_value(~value if hides else value)
        if not self.differs_between_queries(mask):
            return MaskKind.PADDING
        if self._is_bias(mask):
            return MaskKind.BIAS
        return MaskKind.CAUSAL if self._has_causal_part(mask) else MaskKind.STRUCTURED

    def differs_between_queries(self, mask: Node) -> bool:
        """May two queries see the mask differently?"""
        return self.dataflow.varies_along(mask, -2)

    def padding_part(self, mask: Node, fused_heads: bool = False) -> Node | None:
        """The part of a mask that is the same for every query and head, None if it has none.

        Args:
            fused_heads: the heads are in one dimension with the batch, and not dimension −3.
        """
        if mask in self.constants or self.dataflow.evaluate(mask) is not None:
            return None
        if not self.differs_between_queries(mask):
            return None if self._differs_between_heads(mask, fused_heads) else mask
        if mask.target in ALIGNED:
            parts = [
                self.padding_part(n, fused_heads) for n in mask.all_input_nodes if is_tensor(n)
            ]
            return next((part for part in parts if part is not None), None)
        return None

    def _differs_between_heads(self, mask: Node, fused_heads: bool) -> bool:
        """May two heads see the mask differently?"""
        if rank_of(mask) < 3 or is_one(mask.meta["val"].shape[-3]):
            return False
        if not fused_heads:
            return rank_of(mask) > 3 and self.dataflow.varies_along(mask, -3)
        source = mask.args[0] if mask.args else None
        unfused = isinstance(source, Node) and rank_of(source) == rank_of(mask) + 1
        if mask.target in (aten.view.default, aten.reshape.default) and unfused:
            assert isinstance(source, Node)
            return self.dataflow.varies_along(source, -3)
        return True

    def _is_bias(self, node: Node) -> bool:
        """Is it a sum of learned values and of parts that are the same for every query?"""
        if self._is_learned(node):
            return True
        if rank_of(node) >= 2 and not self.differs_between_queries(node):
            return True
        if node.target in ALIGNED and is_float(node):
            return all(self._is_bias(source) for source in node.all_input_nodes)
        return False

    def _is_learned(self, node: Node) -> bool:
        """Do its values come from parameters alone, perhaps picked by constant indices?"""
        if node in self.parameters:
            return is_float(node)
        if node.op != "call_function" or not self._is_constant(node):
            return False
        if node.target == aten.linear.default:
            return True
        sources = [source for source in node.all_input_nodes if is_tensor(source)]
        if any(source.meta["val"].dtype == torch.bool for source in sources):
            return False
        floats = [source for source in sources if is_float(source)]
        return bool(floats) and all(self._is_learned(source) for source in floats)

    def _is_constant(self, node: Node) -> bool:
        """Does the node depend on no input of the user?"""
        return all(n in self.constants for n in _upstream(node) if n.op == "placeholder")

    def _has_causal_part(self, mask: Node) -> bool:
        """Is some part of it lower triangular? (Only to give the reason by its name.)"""
        for node in _upstream(mask):
            if node.target in (aten.tril.default, aten.triu.default):
                return True
            value = self.dataflow.evaluate(node)
            if value is not None and value.dim() >= 2 and value.shape[-2] > 1:
                mask_like = value.dtype == torch.bool or value.is_floating_point()
                if mask_like and _kind_of_value(value) is MaskKind.CAUSAL:
                    return True
        return False


def _upstream(node: Node) -> Iterator[Node]:
    """The node and everything it is computed from."""
    seen: set[Node] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        if current not in seen:
            seen.add(current)
            yield current
            stack += current.all_input_nodes


def _kind_of_value(value: Tensor) -> MaskKind:
    """What a mask of known values does."""
    hidden = is_masking(value)
    if not bool(hidden.any()) and (value.dtype == torch.bool or not bool(value.any())):
        return MaskKind.NONE
    if value.dim() < 2 or value.shape[-2] == 1 or bool((value == value[..., :1, :]).all()):
        return MaskKind.PADDING
    if not bool(hidden.any()):
        return MaskKind.BIAS
    future = torch.ones(value.shape[-2:], dtype=torch.bool).triu(1)
    return MaskKind.CAUSAL if bool(hidden[..., future].all()) else MaskKind.STRUCTURED

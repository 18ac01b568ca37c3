"""What an attention mask means, decided soundly from the graph.

A mask that depends on no graph input may be evaluated. The values of one that does are not
guarded (the next call may bring others), so it counts as padding only if dataflow shows that it
is the same for every query; as a position bias only if its values are learned. The rest is
structured (causal, sliding, block-diagonal…).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx import Node
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from pitome_fx.passes.aten.families import FUSING, SAME_VALUES, SHAPES, TRIANGLES
from pitome_fx.passes.aten.nodes import is_float, is_one, is_tensor, rank_of
from pitome_fx.passes.aten.operands import value_operands
from pitome_fx.passes.detect.dataflow import Dataflow
from pitome_fx.passes.detect.mask import (
    Mask,
    MaskKind,
    MaskUse,
    is_hidden,
    is_masking,
    kind_of_value,
)
from pitome_fx.passes.detect.variation import Variation
from pitome_fx.passes.tokens.sizes import same_size

aten = torch.ops.aten


# Ops whose result lines up with their operands at the last two dimensions (queries and keys).
ALIGNED = (
    *SAME_VALUES,
    aten.expand.default,
    aten.expand_as.default,
    aten.broadcast_to.default,
    aten.add.Tensor,
)


# Ops that hide keys by a condition: does its True keep them, and where is it among the arguments?
HIDING = {
    aten.where.ScalarOther: (True, 0),
    aten.where.self: (True, 0),
    aten.masked_fill.Scalar: (False, 1),
}


@dataclass
class Masks:
    """Judges the masks of one graph.

    Attributes:
        parameters: placeholders that hold parameters, with their present values.
        constants: placeholders that hold parameters or buffers.
        dataflow: what is known of the graph's values.
        variation: along which dimensions they differ.
    """

    parameters: Mapping[Node, Tensor]
    constants: frozenset[Node]
    dataflow: Dataflow
    variation: Variation
    _kinds: dict[Mask, MaskKind] = field(default_factory=dict)
    _learned: dict[Node, bool] = field(default_factory=dict)

    def kind(self, node: Node) -> MaskKind:
        """What a mask (…, Q, K) does to the scores that it is added to."""
        return self.kind_of(Mask(node, node))

    def kind_of(self, mask: Mask) -> MaskKind:
        """What a mask does to the scores that it meets."""
        mask = replace(mask, consumer=mask.node, adds=False)
        if mask not in self._kinds:
            self._kinds[mask] = self._judge(mask)
        return self._kinds[mask]

    def _judge(self, mask: Mask) -> MaskKind:
        value = self.dataflow.known(mask.node)
        if value is not None:
            return kind_of_value(mask.rows(value), mask.use)
        differs = mask.queries is not None and self.differs_between_queries(mask.node, mask.queries)
        if mask.use is MaskUse.SCALES and differs:
            return MaskKind.STRUCTURED
        if not differs:
            return MaskKind.PADDING
        is_bias = self.is_learned if (mask.queries, mask.keys) != (-2, -1) else self._is_bias
        if is_bias(mask.node):
            return MaskKind.BIAS
        return MaskKind.CAUSAL if self._is_causal(mask) else MaskKind.STRUCTURED

    def differs_between_queries(self, mask: Node, queries: int = -2) -> bool:
        """May two queries, in a dimension counted from the end, see the mask differently?"""
        return self.variation.along(mask, queries)

    def padding_part(self, mask: Mask, fused_heads: bool = False) -> Mask | None:
        """The part of a mask that is the same for every query and head, None if it has none.

        Args:
            fused_heads: the heads are in one dimension with the batch, and not dimension −3.
        """
        node = mask.node
        value = self.dataflow.known(node)
        if value is not None:
            return mask if self.kind_of(mask) is MaskKind.PADDING else None
        if node in self.constants:
            return None
        if mask.queries is None:
            return mask
        if not self.differs_between_queries(node, mask.queries):
            return None if self._differs_between_heads(node, fused_heads) else mask
        if (mask.queries, mask.keys) != (-2, -1):
            return None
        source = _before_fusing(node)
        if source is not None:
            return self.padding_part(replace(mask, node=source))
        inner: list[Mask] = []
        if node.target in ALIGNED:
            inner = [replace(mask, node=source) for source in value_operands(node)]
        elif node.target in HIDING and is_hidden(node.args[2]):
            keeps, condition = HIDING[node.target]
            use = MaskUse.KEEPS if keeps else MaskUse.FILLS
            bias, hider = node.args[1 - condition], node.args[condition]
            inner = [
                replace(mask, node=source, use=of)
                for source, of in ((hider, use), (bias, mask.use))
                if isinstance(source, Node)
            ]
        parts = (self.padding_part(part, fused_heads) for part in inner if is_tensor(part.node))
        return next((part for part in parts if part is not None), None)

    def _differs_between_heads(self, mask: Node, fused_heads: bool) -> bool:
        """May two heads see the mask differently?"""
        if rank_of(mask) < 3:
            return False
        lead = self.variation.of(mask)[-3]
        if fused_heads and rank_of(mask) == 3:
            # The batch comes first. One axis for both tells nothing of the heads alone.
            return any(lead[1:] or lead)
        return rank_of(mask) > 3 and any(lead)

    def _is_bias(self, node: Node) -> bool:
        """Is it a sum of learned or known values and of parts that are the same for every query?"""
        if self.is_learned(node):
            return True
        value = self.dataflow.known(node)
        if value is not None and is_float(node):
            return kind_of_value(value) in (MaskKind.NONE, MaskKind.PADDING, MaskKind.BIAS)
        if rank_of(node) >= 2 and not self.differs_between_queries(node):
            return True
        if node in self.dataflow.written:
            return False
        inner = [source for source in value_operands(node) if rank_of(source)]
        if is_float(node) and (node.target in ALIGNED or node.target in HIDING):
            return all(self._is_bias(source) for source in inner)
        if is_float(node) and node.target in FUSING:
            return self._is_bias(inner[0])
        if node.target == aten.mul.Tensor:
            # A gate with one value per query (WavLM) scales its row and hides no key of it.
            gated = [s for s in inner if not is_one(s.meta["val"].shape[-1])]
            return len(gated) == 1 and all(map(is_float, inner)) and self._is_bias(gated[0])
        return False

    def is_learned(self, node: Node) -> bool:
        """Do its values come from parameters alone, perhaps picked by constant indices?"""
        if node not in self._learned:
            written = node in self.dataflow.written
            self._learned[node] = not written and self._comes_from_parameters(node)
        return self._learned[node]

    def _comes_from_parameters(self, node: Node) -> bool:
        if node in self.parameters:
            return is_float(node) and _is_soft(self.parameters[node])
        if node.op != "call_function" or not is_float(node) or not self._is_constant(node):
            return False
        if node.target == aten.linear.default:
            return True
        sources = [source for source in value_operands(node) if is_tensor(source)]
        if any(source.meta["val"].dtype == torch.bool for source in sources):
            return False
        floats = [source for source in sources if is_float(source)]
        return bool(floats) and all(self.is_learned(source) for source in floats)

    def _is_constant(self, node: Node) -> bool:
        """Does the node depend on no input tensor of the user?"""
        inputs = (n for n in _upstream(node) if n.op == "placeholder" and is_tensor(n))
        return all(n in self.constants for n in inputs)

    def _is_causal(self, mask: Mask) -> bool:
        """Is it, or some part of it, lower triangular? (Only to give the reason by its name.)"""
        whole = self.dataflow.example(mask.node)
        if isinstance(whole, Tensor):
            return kind_of_value(mask.rows(whole), mask.use) is MaskKind.CAUSAL
        for node in _upstream(mask.node):
            if node.target in TRIANGLES:
                return True
            value = self.dataflow.example(node)
            if isinstance(value, Tensor) and value.dim() >= 2 and value.shape[-2] > 1:
                mask_like = value.dtype == torch.bool or value.is_floating_point()
                if mask_like and kind_of_value(value) is MaskKind.CAUSAL:
                    return True
        return False


def _upstream(node: Node) -> Iterator[Node]:
    """The node and everything its values are computed from; a size is no value."""
    seen: set[Node] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        if current not in seen and current.target not in SHAPES:
            seen.add(current)
            yield current
            stack += value_operands(current)


def _before_fusing(mask: Node) -> Node | None:
    """(B, H, Q, K), of which the mask (B·H, Q, K) was made."""
    source = mask.args[0] if mask.args else None
    if mask.target not in FUSING or not isinstance(source, Node):
        return None
    if (rank_of(source), rank_of(mask)) != (4, 3):
        return None
    pairs = zip(source.meta["val"].shape[-2:], mask.meta["val"].shape[-2:], strict=True)
    return source if all(same_size(a, b) for a, b in pairs) else None


def _is_soft(parameter: Tensor) -> bool:
    """Has a parameter learned values, and not a mask's?"""
    if is_traceable_wrapper_subclass(parameter):
        return False  # Reading one may take other processes (DTensor), or not be possible.
    with unset_fake_temporarily():
        return parameter.dim() == 0 or not bool(is_masking(parameter.detach()).any())

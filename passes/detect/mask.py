"""A mask or bias of attention, and what known values of one do."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from pitome_fx.passes.tokens.dims import Dim


class MaskKind(enum.Enum):
    """What a mask does to attention."""

    NONE = "no mask, or one that masks nothing"
    PADDING = "the same for every query: some keys are hidden"
    BIAS = "a learned bias on positions"
    CAUSAL = "queries see earlier tokens only"
    STRUCTURED = "queries see different keys"


class MaskUse(enum.Enum):
    """How a mask meets the scores."""

    KEEPS = "added to them, or True where a key is seen"
    FILLS = "True where a key is hidden (masked_fill)"
    SCALES = "multiplied with the weights after the softmax"


@dataclass(frozen=True)
class Mask:
    """A mask or bias of an attention site, and the node where the scores meet it.

    Attributes:
        adds: it meets the scores as a plain summand.
        scale: what it is multiplied with where it is added.
        queries, keys: their dimensions, counted from the end; queries None where it meets keys or
            values, and no scores.
    """

    node: Node
    consumer: Node
    use: MaskUse = MaskUse.KEEPS
    adds: bool = False
    scale: float = 1.0
    queries: int | None = -2
    keys: int = -1

    def rows(self, values: Tensor) -> Tensor:
        """Its values as (…, Q, K): what is added to scores, or multiplied with them."""
        rank = max(-self.keys, -(self.queries or 0))
        values = values[(None,) * (rank - values.dim())]
        if self.queries is None:
            values = values.movedim(self.keys, -1).unsqueeze(-2)
        else:
            values = values.movedim((self.queries, self.keys), (-2, -1))
        return values if self.scale == 1 else values * self.scale

    def lead(self, dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """Of its dimensions, or of the scores', those that ``rows`` puts before Q and K."""
        own = {self.keys, self.queries}
        return tuple(dim for at, dim in enumerate(dims, -len(dims)) if at not in own)


HIDDEN = -1000.0
"""A score this far below the largest of its row has weight exp(−1000) = 0 in every dtype."""


def is_hidden(value: object) -> bool:
    """Is a scalar so low that it hides a key?"""
    return isinstance(value, int | float) and value <= HIDDEN


def is_masking(values: Tensor) -> Tensor:
    """Where a bool or float mask (…, K) hides a key: False, or far below the rest of its row.

    That holds for −∞, for the lowest float, and for the −10⁴ and −10⁹ of hand-written masks.
    """
    if values.dtype == torch.bool:
        return ~values
    peak = values.amax(-1, keepdim=True)
    return values < torch.where(peak.isfinite(), peak, 0) + HIDDEN


def kind_of_value(value: Tensor, use: MaskUse = MaskUse.KEEPS) -> MaskKind:
    """What a mask of known values does."""
    if use is not MaskUse.KEEPS:
        value = value == 0 if use is MaskUse.FILLS else value != 0
    hidden = is_masking(value)
    if not bool(hidden.any()) and (value.dtype == torch.bool or not bool(value.any())):
        return MaskKind.NONE
    if value.dim() < 2 or value.shape[-2] == 1 or bool((value == value[..., :1, :]).all()):
        return MaskKind.PADDING
    if not bool(hidden.any()):
        return MaskKind.BIAS
    future = torch.ones(value.shape[-2:], dtype=torch.bool, device=value.device).triu(1)
    return MaskKind.CAUSAL if bool(hidden[..., future].all()) else MaskKind.STRUCTURED

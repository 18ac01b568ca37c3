"""What a rewrite had to do beyond the rules: told in the report, checked by the oracle."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from pitome_fx.passes.tokens.dims import Dim


@dataclass(frozen=True)
class LiftEvent:
    """Operand ``operand`` of node ``node`` had to be unmerged."""

    node: Node
    operand: Node | None
    why: str


@dataclass(frozen=True)
class ProjectEvent:
    """Operand ``operand`` of node ``node`` was merged along.

    Attributes:
        dims: all its dimensions at that moment, in the broadcast with the other operands.
        dim: which of them was merged.
        target: the spaces it was merged into.
    """

    node: Node
    operand: Node | None
    why: str
    dims: tuple[Dim, ...]
    dim: int
    target: Dim


@dataclass(frozen=True)
class UnweightedEvent:
    """Attention at ``node`` counts each group of these keys as one token (not proportional)."""

    node: Node
    keys: Dim

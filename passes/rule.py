"""The table of token rules.

A rule is a function ``rule(step, *args, **kwargs)`` with the arguments of its op, tensors being
TokenTensors. It runs the op by calling ``step(...)`` and returns the result with its dimensions.
The law it must keep: lift(rule(merged)) = op(lift(merged)). Where it cannot, it raises ``Lift``
with the reason, and the op runs unchanged on unmerged operands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

Rule = Callable[..., Any]


class Lift(Exception):
    """Raised by a rule that cannot act on merged operands; the text says why."""


_RULES: dict[Any, Rule] = {}
_POINTWISE: list[Rule] = []


def rule(*ops: OpOverload | OpOverloadPacket) -> Callable[[Rule], Rule]:
    """Register a token rule for ops (for a packet: all its overloads that mutate nothing)."""

    def add(function: Rule) -> Rule:
        for op in ops:
            for overload in _overloads(op):
                if overload in _RULES:
                    raise ValueError(f"two rules for {overload}")
                _RULES[overload] = function
        return function

    return add


def pointwise_rule(function: Rule) -> Rule:
    """Register the rule of every op that PyTorch tags as pointwise and that has none of its own."""
    _POINTWISE.append(function)
    return function


def rule_for(target: Any) -> Rule | None:
    """The rule of a node's target, None if it must be lifted."""
    if target in _RULES:
        return _RULES[target]
    if isinstance(target, OpOverload) and torch.Tag.pointwise in target.tags and _is_pure(target):
        return _POINTWISE[0]
    return None


def registered() -> dict[Any, Rule]:
    """All rules by op."""
    return dict(_RULES)


def _overloads(op: OpOverload | OpOverloadPacket) -> list[OpOverload]:
    if isinstance(op, OpOverload):
        return [op]
    found = [getattr(op, name) for name in op.overloads()]
    return [overload for overload in found if _is_pure(overload)]


def _is_pure(op: OpOverload) -> bool:
    return not op._schema.is_mutable

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

from pitome_fx.passes.aten.families import is_pure, pure_overloads

Rule = Callable[..., Any]


class Lift(Exception):
    """Raised by a rule that cannot act on merged operands; the text says why."""


_RULES: dict[Any, Rule] = {}
_MOVING: set[Any] = set()
_POINTWISE: list[Rule] = []


def rule(*ops: OpOverload | OpOverloadPacket, moves: bool = False) -> Callable[[Rule], Rule]:
    """Register a token rule for ops (for a packet: all its overloads that mutate nothing).

    Args:
        moves: whether every element of a result is one of the first operand's, unchanged.
    """

    def add(function: Rule) -> Rule:
        for overload in pure_overloads(*ops):
            if overload in _RULES:
                raise ValueError(f"two rules for {overload}")
            _RULES[overload] = function
            if moves:
                _MOVING.add(overload)
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
    return _POINTWISE[0] if is_tagged_pointwise(target) else None


def moves_elements(target: Any) -> bool:
    """Is every element of its result one of the first operand's, unchanged?"""
    return target in _MOVING


def is_tagged_pointwise(target: Any) -> bool:
    """Does PyTorch say that the op computes one tensor, each element from those it meets?

    What draws at random has the tag too, and draws for every token; so has what compares two
    tensors as a whole.
    """
    return (
        isinstance(target, OpOverload)
        and torch.Tag.pointwise in target.tags
        and torch.Tag.nondeterministic_seeded not in target.tags
        and is_pure(target)
        and [str(result.type) for result in target._schema.returns] == ["Tensor"]
    )


def registered() -> dict[Any, Rule]:
    """All rules by op."""
    return dict(_RULES)

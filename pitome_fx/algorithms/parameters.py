"""The parameters that an algorithm declares: the keyword-only arguments of its function.

    def mine(tokens: Tokens, *, margin: Margin = 0.9, rounds: int = 1) -> Match: ...

A parameter has the type of its default; ``Annotated`` with ``Allowed`` says more about its values.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pitome_fx.errors import OptionsError

Value = float | int | bool | str

NUMBER = "a number"
KINDS: dict[type, tuple[str, Callable[[Any], bool]]] = {
    bool: ("True or False", lambda v: isinstance(v, bool)),
    int: ("an int", lambda v: isinstance(v, int) and not isinstance(v, bool)),
    float: (
        NUMBER,
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v),
    ),
    str: ("a string", lambda v: isinstance(v, str)),
}
"""Of each type of default: what is expected, and whether a value is that."""


@dataclass(frozen=True)
class Allowed:
    """Which values a parameter may have: in words, and as a test."""

    words: str
    test: Callable[[Any], bool]


Margin = Annotated[float, Allowed("a number in [-1, 1)", lambda v: -1 <= v < 1)]
Weight = Annotated[float, Allowed("a non-negative number", lambda v: v >= 0)]
Positive = Annotated[float, Allowed("a positive number", lambda v: v > 0)]
Count = Annotated[int, Allowed("a positive int", lambda v: v > 0)]


@dataclass(frozen=True)
class Parameter:
    """One parameter: its default, and which values it may have."""

    default: Value
    allowed: Allowed

    def read(self, value: Any) -> Value:
        """The value in the type of the default, so that equal values are written alike."""
        return type(self.default)(value)


def parameters_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The parameters that a function declares.

    Raises:
        TypeError: it takes other arguments than ``(tokens, *, name=default, …)``.
    """
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, TypeError):
        # Annotations that name what only a type checker imports.
        signature = inspect.signature(function)
    positional = [p for p in signature.parameters.values() if p.kind < p.KEYWORD_ONLY]
    named = [p for p in signature.parameters.values() if p.kind == p.KEYWORD_ONLY]
    required = [p for p in positional if p.default is p.empty and p.kind != p.VAR_POSITIONAL]
    if len(required) != 1 or any(type(p.default) not in KINDS for p in named):
        raise TypeError(
            f"an algorithm takes its tokens and parameters with defaults, numbers or strings: "
            f"def mine(tokens, *, margin=0.9); got {getattr(function, '__name__', function)}"
            f"{signature}"
        )
    return {p.name: Parameter(p.default, _allowed(p)) for p in named}


def _allowed(parameter: inspect.Parameter) -> Allowed:
    words, test = KINDS[type(parameter.default)]
    more = [x for x in typing.get_args(parameter.annotation) if isinstance(x, Allowed)]
    if not more:
        return Allowed(words, test)
    return Allowed(more[0].words, lambda value: test(value) and more[0].test(value))


def complete(
    algorithm: str, declared: Mapping[str, Parameter], given: Mapping[str, Any]
) -> dict[str, Value]:
    """All parameters of an algorithm: those given, the others at their defaults.

    Raises:
        OptionsError: one is unknown, or its value is not allowed.
    """
    for name, value in given.items():
        if name not in declared:
            own = f"its parameters are {', '.join(declared)}" if declared else "it has none"
            raise OptionsError(
                f"algorithm_options: {algorithm!r} has no parameter {name!r} (value {value!r}); "
                f"{own}."
            )
        if not declared[name].allowed.test(value):
            raise OptionsError(
                f"algorithm_options: {name}={value!r} is not allowed for {algorithm!r}: expected "
                f"{declared[name].allowed.words}."
            )
    return {name: p.read(given.get(name, p.default)) for name, p in declared.items()}

"""Merging off: ``PITOME_FX=off`` for a process, ``disabled()`` for what runs inside it.

``disabled()`` holds for the thread (and the asyncio task) that enters it, so that one request can
run dense while others go on merging; ``PITOME_FX=off`` holds everywhere.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

from torch.utils._contextlib import _NoParamDecoratorContextManager

from pitome_fx.errors import OptionsError

VARIABLE = "PITOME_FX"
SWITCHED_OFF = "merging is switched off ({by})"

_depth: ContextVar[int] = ContextVar("pitome_fx.disabled", default=0)

Function = TypeVar("Function", bound=Callable[..., Any])


class disabled(_NoParamDecoratorContextManager):
    """Runs the dense model: a context manager, and a decorator of functions and generators.

    Inside, what ``torch.compile(backend="pitome")`` returned runs the dense graph, lowered as with
    ``ratio=1.0`` (compiled when it is first needed, and kept beside the merged one); ``transform``
    returns the dense program, and ``explain`` says so. It holds for this thread; one that is
    started inside merges. A backward pass is that of its forward pass, wherever it is called.
    Inside a function that is compiled it breaks the graph. A program that was exported or compiled
    ahead of time stays what it is.

    Raises:
        TypeError: it decorates a coroutine, whose body runs after the call has returned.
    """

    def __enter__(self) -> None:
        _depth.set(_depth.get() + 1)

    def __exit__(self, *error: object) -> None:
        _depth.set(max(_depth.get() - 1, 0))

    def __call__(self, function: Function) -> Function:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"pitome_fx.disabled() cannot decorate the coroutine {function.__name__}: write "
                "'with pitome_fx.disabled():' inside it"
            )
        return super().__call__(function)


def is_disabled() -> bool:
    """Is this inside ``disabled()``? Compiled functions are guarded on the answer."""
    return _depth.get() > 0


def is_off_for_process() -> bool:
    """Does the environment switch merging off? It is read when something is compiled.

    Raises:
        OptionsError: the variable has another value than on and off.
    """
    value = os.environ.get(VARIABLE) or "on"
    if value.lower() not in ("on", "off"):
        raise OptionsError(
            f"{VARIABLE}={value!r} in the environment is not allowed: expected 'off', so that "
            "nothing merges, or 'on', as without it."
        )
    return value.lower() == "off"


def why_off() -> str | None:
    """Why nothing merges here and now; None where merging is on.

    Raises:
        OptionsError: as ``is_off_for_process``.
    """
    if is_off_for_process():
        return SWITCHED_OFF.format(by=f"{VARIABLE}=off")
    return SWITCHED_OFF.format(by="pitome_fx.disabled()") if is_disabled() else None

"""Autocast that a program switches itself, while the program is traced.

A tracer only records the switch; whatever it traces next would have the dtypes of a program
without autocast, and a mask made in half precision would meet queries that are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast
from torch.overrides import TorchFunctionMode


@contextmanager
def switching() -> Iterator[None]:
    """Inside a trace: switches of autocast are recorded, and take effect while this lasts."""
    on: list[ExitStack] = []
    try:
        with _Switching(on):
            yield
    finally:
        while on:
            on.pop().close()


class _Switching(TorchFunctionMode):
    def __init__(self, on: list[ExitStack]) -> None:
        super().__init__()
        self._on = on

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is _enter_autocast:
            # Entered by hand it is recorded by the tracer, which no longer sees this mode.
            self._on.append(ExitStack())
            return self._on[-1].enter_context(torch.autocast(*args))
        if func is _exit_autocast:
            return self._on.pop().close()
        return func(*args, **(kwargs or {}))

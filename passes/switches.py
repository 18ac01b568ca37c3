"""Autocast that a program switches itself, while the program is traced.

A tracer only records the switch; whatever it traces next would have the dtypes of a program
without autocast, and a mask made in half precision would meet queries that are not.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast
from torch.overrides import TorchFunctionMode


class Switching(TorchFunctionMode):
    """Inside a trace: switches of autocast are recorded, and take effect until the mode ends."""

    def __init__(self) -> None:
        super().__init__()
        self._on: list[ExitStack] = []

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

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        while self._on:
            self._on.pop().close()

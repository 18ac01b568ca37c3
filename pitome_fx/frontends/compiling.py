"""torch.compile for a look at a model, beside the user's own compilations of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch


def compiled_apart(model: Any, backend: str | Callable[..., Any], **how: Any) -> Any:
    """Compile without using up the recompiles that the model's own compilations may need.

    Args:
        model: a module or any callable.
        backend, how: as torch.compile takes them.
    """
    known = inspect.signature(torch.compile).parameters
    apart: dict[str, Any] = {"isolate_recompiles": True} if "isolate_recompiles" in known else {}
    return torch.compile(model, backend=backend, **how, **apart)

"""How a program returns its outputs: in containers, twice, as views of one another or of inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor


@dataclass
class Output:
    """As models of many libraries return it."""

    first: Tensor
    rest: tuple[Tensor, ...]
    nothing: None = None


pytree.register_dataclass(Output)


def _single(outputs: list[Tensor], x: Tensor) -> Any:
    return tuple(outputs) if len(outputs) > 1 else outputs[0]


FORMS: dict[str, Callable[[list[Tensor], Tensor], Any]] = {
    "single": _single,
    "tuple": lambda outputs, x: tuple(outputs),
    "dict": lambda outputs, x: {f"output_{i}": output for i, output in enumerate(outputs)},
    "nested": lambda outputs, x: {"first": outputs[0], "rest": (outputs[1:], None)},
    "dataclass": lambda outputs, x: Output(outputs[0], tuple(outputs[1:])),
    "twice": lambda outputs, x: [*outputs, outputs[-1]],
    "views": lambda outputs, x: [*outputs, *(y[:1].mT for y in outputs[-1:] if y.dim() > 1)],
    "parts": lambda outputs, x: (
        (outputs[-1].unsqueeze(0), outputs[-1].mT[:2], *outputs[:-1])
        if outputs[-1].dim() > 1
        else tuple(outputs)
    ),
    "input": lambda outputs, x: (*outputs, x),
    "part of input": lambda outputs, x: {"kept": x[:, :1], "rest": outputs},
}
"""(outputs of all read-outs, the first input) → what the program returns."""


def formed(form: str, outputs: list[Tensor], x: Tensor) -> Any:
    return FORMS[form](outputs, x)

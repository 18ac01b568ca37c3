"""Inputs by their shapes, as the command line writes them: ``input_ids=2x128:int64``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from pitome_fx.errors import UsageError

_SPEC = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>[1-9]\d*(?:x[1-9]\d*)*)(?::(?P<dtype>\w+))?"
)


@dataclass(frozen=True)
class InputSpec:
    """One input: positional if it has no name, of the model's own dtype if it has none."""

    shape: tuple[int, ...]
    name: str | None = None
    dtype: torch.dtype | None = None

    @classmethod
    def parse(cls, text: str) -> InputSpec:
        """Read ``[NAME=]2x3x224x224[:DTYPE]``; raises UsageError."""
        found = _SPEC.fullmatch(text)
        if found is None:
            raise UsageError(
                f"--input {text!r} is no shape: expected [NAME=]SHAPE[:DTYPE], "
                "as in 2x3x224x224 or input_ids=2x128:int64"
            )
        dtype = getattr(torch, found["dtype"] or "", None)
        if found["dtype"] and not isinstance(dtype, torch.dtype):
            raise UsageError(f"--input {text!r}: torch has no dtype {found['dtype']!r}")
        shape = tuple(int(size) for size in found["shape"].split("x"))
        return cls(shape, found["name"], dtype if found["dtype"] else None)


def fill(
    inputs: Sequence[InputSpec], model: nn.Module
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Tensors of those shapes: normal deviates where floating, else ones.

    Raises:
        UsageError: a name comes twice, or torch makes no such tensor.
    """
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    own = next(floating, torch.get_default_dtype())
    args, kwargs = [], {}
    for spec in inputs:
        if spec.name in kwargs:
            raise UsageError(f"--input {spec.name} is given twice")
        try:
            value = _values(spec.shape, spec.dtype or own)
        except (RuntimeError, TypeError, MemoryError) as error:
            shown = f"{'x'.join(map(str, spec.shape))}:{str(spec.dtype or own)[6:]}"
            reason = str(error).strip().splitlines()[0]
            raise UsageError(f"--input {shown}: torch makes no such tensor: {reason}") from error
        if spec.name is None:
            args.append(value)
        else:
            kwargs[spec.name] = value
    return tuple(args), kwargs


def _values(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if str(dtype).startswith("torch.q"):
        raise TypeError("a quantised one has a scale, too")
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, dtype=dtype)
    return torch.ones(shape, dtype=dtype)


def describe(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The shapes of inputs, for a message."""
    named = [*(("", value) for value in args), *((f"{key}=", v) for key, v in kwargs.items())]
    return ", ".join(prefix + _shown(value) for prefix, value in named) or "no inputs"


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return "x".join(map(str, value.shape)) + f":{str(value.dtype).removeprefix('torch.')}"
    leaves = pytree.tree_leaves(value)
    return f"a {type(value).__name__} of {len(leaves)}" if leaves else repr(value)

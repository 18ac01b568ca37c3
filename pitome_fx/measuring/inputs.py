"""The arguments of a call, as a user of the measuring functions gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from pitome_fx.errors import UsageError
from pitome_fx.frontends.unmerged import unmerged


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a model."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, inputs: Any) -> Call:
        """From one tensor, a tuple or list of positional arguments, or a mapping of named ones.

        Raises:
            UsageError: it is none of these, or holds no tensor.
        """
        if isinstance(inputs, Tensor):
            call = cls((inputs,), {})
        elif isinstance(inputs, Mapping):
            # Such as a tokenizer's BatchEncoding, which knows more than a dict.
            call = cls((), dict(inputs))
        elif isinstance(inputs, Sequence) and not isinstance(inputs, str):
            call = cls(tuple(inputs), {})
        else:
            raise UsageError(
                f"inputs of type {type(inputs).__name__}: expected a tensor, a tuple of the "
                "model's positional arguments, or a mapping of its named ones"
            )
        if not call.tensors:
            raise UsageError("these inputs hold no tensor: expected the arguments of one call")
        return call

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    @property
    def items(self) -> int:
        """How many items there are: the length of the first tensor that has any dimension."""
        return next((len(x) for x in self.tensors if x.dim()), 1)

    @property
    def device(self) -> torch.device:
        """Where they lie: on an accelerator if any of them does."""
        devices = [x.device for x in self.tensors]
        return next((device for device in devices if device.type != "cpu"), devices[0])

    def __call__(self, model: Any) -> Any:
        """Call the model with them."""
        return model(*self.args, **self.kwargs)


def dense_model(model: Any) -> Any:
    """What is to be measured: the model itself, where what torch.compile returned is given.

    Raises:
        UsageError: it is transformed already, or parts of it are compiled.
    """
    is_compiled = hasattr(model, "_torchdynamo_orig_callable")
    return unmerged(model) if isinstance(model, nn.Module) or is_compiled else model

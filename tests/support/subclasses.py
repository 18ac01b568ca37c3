"""Tensor subclasses of three makes, and models whose weights they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn


class Wrapper(torch.Tensor):
    """Two parts that make up a tensor: their sum. What is computed of it is plain."""

    high: Tensor
    low: Tensor

    @staticmethod
    def __new__(cls, high: Tensor, low: Tensor) -> Wrapper:
        wrapper: Any = torch.Tensor._make_wrapper_subclass(
            cls, high.shape, strides=high.stride(), dtype=high.dtype, device=high.device
        )
        return wrapper

    def __init__(self, high: Tensor, low: Tensor) -> None:
        self.high, self.low = high, low

    @classmethod
    def of(cls, x: Tensor) -> Wrapper:
        """Such a tensor of the values of another."""
        low = torch.randn_like(x)
        return cls(x.detach() - low, low)

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["high", "low"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: Any, context: Any, size: Any, stride: Any) -> Wrapper:
        return cls(inner["high"], inner["low"])

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        # AOTAutograd logs its inputs, of which that of a fake tensor has no values to be shown.
        return f"{type(self).__name__}({tuple(self.shape)})"

    def plain(self) -> Tensor:
        """The tensor it stands for."""
        return self.high + self.low

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return cls(op(args[0].high), op(args[0].low))
        args, kwargs = pytree.tree_map_only(cls, cls.plain, (args, kwargs or {}))
        return op(*args, **kwargs)


class OnlyLinear(Wrapper):
    """It knows the function ``F.linear`` and hardly an op, as quantised weights do."""

    @staticmethod
    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What it is with the weight as a plain tensor."""
        return nn.functional.linear(x, weight, bias)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is nn.functional.linear:
            x, weight, bias = (*args, *(kwargs or {}).values(), None)[:3]
            return cls.linear(x, weight.plain(), bias)
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op not in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            raise NotImplementedError(f"{cls.__name__} has no {op}")
        return super().__torch_dispatch__(op, types, args, kwargs)


def quantised_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer on activations that are rounded to int8, each token on a scale of its own."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    return nn.functional.linear((x / scale).round() * scale, weight, bias)


class RowWise(OnlyLinear):
    """A weight whose linear layer quantises what it is given."""

    @staticmethod
    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return quantised_linear(x, weight, bias)


class Spreading(Wrapper):
    """What is computed of it is one of its kind (as with DTensor)."""

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return super().__torch_dispatch__(op, types, args, kwargs)
        args, kwargs = pytree.tree_map_only(Wrapper, Wrapper.plain, (args, kwargs or {}))
        return pytree.tree_map_only(
            Tensor,
            lambda x: cls(x, torch.zeros_like(x)) if x.is_floating_point() else x,
            op(*args, **kwargs),
        )


def with_weights(
    model: nn.Module,
    wrap: Callable[[Tensor], Tensor],
    *,
    trained: bool = False,
    buffers: bool = False,
) -> nn.Module:
    """Make the weights of all linear layers subclass tensors, in place."""
    for module in model.modules():
        if not isinstance(module, nn.Linear):
            continue
        weight = wrap(module.weight)
        if buffers:
            del module.weight
            module.register_buffer("weight", weight)
        else:
            module.weight = nn.Parameter(weight, requires_grad=trained)
    return model


def with_linears(model: nn.Module, linear: Callable[..., Tensor]) -> nn.Module:
    """Make all linear layers compute something else, in place."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.forward = lambda x, m=module: linear(x, m.weight, m.bias)
    return model

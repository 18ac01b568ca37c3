"""What transform returns: a graph that knows the mode it was made in, wherever it goes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from typing import Any, Self

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


class TransformedModule(GraphModule):
    """A transformed program as a module, fixed to the train or eval mode it was made in.

    It can be copied, deep-copied, pickled, saved with ``torch.save`` and sent to another process:
    torch's own modules of exported programs would lose their checks of inputs, and what is no
    part of a state dict, in a copy, and cannot be pickled. Hooks of a user's own are not pickled.

    Args:
        source: the module to be like, with which parameters and buffers are shared.
        program: the transformed program.
    """

    def __init__(self, source: GraphModule, program: ExportedProgram, training: bool) -> None:
        super().__init__(source, source.graph, class_name="TransformedModule")
        self.training = training
        self._program = _without_weights(program)
        self._take_over(source)
        self._made_as = self.code

    def _take_over(self, source: GraphModule) -> None:
        """What GraphModule takes over only in part: hooks, metadata, what is no parameter."""
        for name, module in source.named_modules(remove_duplicate=False):
            own = self.get_submodule(name)
            own._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
            for constant in own._buffers.keys() - module._buffers.keys():
                # It takes every tensor for a buffer.
                value = own._buffers.pop(constant)
                setattr(own, constant, value)
        for table in HOOKS:
            setattr(self, table, getattr(source, table).copy())
        self.meta = dict(source.meta)
        for name in ("range_constraints", "validate_inputs"):
            setattr(self, name, getattr(source, name))

    def train(self, mode: bool = True) -> Self:
        """Switching between train and eval cannot change a traced graph: say so."""
        if mode == self.training:
            return self
        made_in, wanted = ("train", "eval") if self.training else ("eval", "train")
        raise RuntimeError(
            f"this graph was transformed in {made_in} mode, which is traced into it. "
            f"Call .{wanted}() on the original model and transform that."
        )

    def __copy__(self) -> TransformedModule:
        copied = super().__deepcopy__({id(x): x for x in _tensors(self).values()})
        return self._as_copy(copied)

    def __deepcopy__(self, memo: dict[int, Any]) -> TransformedModule:
        return self._as_copy(super().__deepcopy__(memo))

    def _as_copy(self, copied: GraphModule) -> TransformedModule:
        assert isinstance(copied, TransformedModule)
        copied._take_over(self)
        copied.training = self.training
        copied._program, copied._made_as = self._program, self._made_as
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        if self.code != self._made_as:
            raise pickle.PicklingError(
                "this transformed model cannot be pickled: its graph was changed after transform. "
                "Pickle it before, or save its state_dict and repeat the change."
            )
        file = io.BytesIO()
        try:
            torch.export.save(self._program, file)
        except Exception as error:
            raise pickle.PicklingError(
                f"this transformed model cannot be pickled: torch.export.save fails with {error}. "
                "Save the original model, and transform it where it is loaded."
            ) from error
        types = tuple(_types(self._program))
        return restored, (file.getvalue(), types, self.training, _tensors(self))


def restored(
    program: bytes, types: tuple[type, ...], training: bool, tensors: dict[str, Tensor]
) -> TransformedModule:
    """A module that was pickled.

    Args:
        program: as torch.export.save writes it, without weights.
        types: what its inputs and outputs are made of: to unpickle them imports their modules,
            which must be done before the program is read.
        tensors: parameters and buffers by name.
    """
    loaded = torch.export.load(io.BytesIO(program))
    module = TransformedModule(loaded.module(), loaded, training)
    for name, value in tensors.items():
        path, _, own = name.rpartition(".")
        owner = module.get_submodule(path)
        if isinstance(value, nn.Parameter):
            owner._parameters[own] = value
        else:
            owner._buffers[own] = value
    return module


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _without_weights(program: ExportedProgram) -> ExportedProgram:
    """The program with nothing in its state, so that no weight is kept or saved twice."""

    def nothing(value: Tensor) -> Tensor:
        empty = torch.empty(0, dtype=value.dtype, device=value.device)
        return nn.Parameter(empty, False) if isinstance(value, nn.Parameter) else empty

    # A new ExportedProgram would write down other guards.
    weightless = copy.copy(program)
    weightless._state_dict = {name: nothing(value) for name, value in program.state_dict.items()}
    return weightless


def _types(program: ExportedProgram) -> Iterator[type]:
    """What the inputs and outputs of a program are made of."""
    specs: list[pytree.TreeSpec] = [program.call_spec.in_spec, program.call_spec.out_spec]
    while specs:
        spec = specs.pop()
        if isinstance(spec.type, type) and not spec.is_leaf():
            yield spec.type
        specs += spec.children()

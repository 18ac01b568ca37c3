"""The first run of a merged program: what fails in it runs dense, as what fails in the pass does.

Kernels are compiled, and engines built, at the first call; a device or a tensor subclass may
refuse there what no shape showed before. From the second run on nothing is left of this but one
Python call.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

Compiled = Callable[..., Any]

NOT_OURS = (torch.OutOfMemoryError, MemoryError)
"""Errors that say nothing of the program: the dense one would take more memory still."""


def with_fallback(
    merged: Compiled,
    written: Sequence[int],
    lower_dense: Callable[[], Compiled],
    say: Callable[[Exception], None],
) -> Compiled:
    """What runs ``merged``, and where its first run raises the dense program, from then on.

    Inputs that the program writes and the states of random generators are put back before the
    dense program runs. If that raises as well, its error is the model's own, and is what comes out.

    Args:
        written: positions of the inputs that the program writes.
        lower_dense: makes what runs the dense program.
        say: is told why the model runs dense.
    """
    chosen: Compiled | None = None
    spare: tuple[Callable[[], Compiled], Callable[[Exception], None]] | None = (lower_dense, say)

    def call(*args: Any) -> Any:
        if chosen is not None:
            return chosen(*args)
        return first(args)

    def first(args: tuple[Any, ...]) -> Any:
        nonlocal chosen, spare
        held = spare
        before = _Before(args, written)
        failure = None
        try:
            result = merged(*args)
        except NOT_OURS:
            raise
        except Exception as error:
            failure = error
        if failure is None:
            chosen = merged
            _explain_first_backward(result)
        elif held is None:  # In another thread it has run.
            raise failure
        else:
            lower_dense, say = held
            dense = lower_dense()
            before.put_back()
            result = dense(*before.args)
            say(failure)
            chosen = dense
        spare = None  # With it goes the dense graph.
        return result

    if isinstance(merged, types.FunctionType):
        # What torch knows a compiled function by, such as how to write it to a file.
        call.__dict__.update(merged.__dict__)
    return call


class _Before:
    """What a run may change: inputs that are written or taken, and random generators."""

    def __init__(self, args: tuple[Any, ...], written: Sequence[int]) -> None:
        # Lists of inputs are emptied by what runs, so that their tensors can be freed.
        self.args = [list(x) if isinstance(x, list) else x for x in args]
        self.written = [(args[i], args[i].detach().clone()) for i in written]
        self.devices = sorted(
            {
                x.device.index
                for x in pytree.tree_leaves(args)
                if isinstance(x, Tensor) and x.device.type == "cuda"
            }
        )
        self.random = torch.get_rng_state(), [torch.cuda.get_rng_state(i) for i in self.devices]

    def put_back(self) -> None:
        """Make it as it was."""
        with torch.no_grad():
            for x, value in self.written:
                x.copy_(value)
        torch.set_rng_state(self.random[0])
        for device, state in zip(self.devices, self.random[1], strict=True):
            torch.cuda.set_rng_state(state, device)


def _explain_first_backward(result: Any) -> None:
    """A backward pass that fails cannot run dense any more; its error says what to do."""
    for output in pytree.tree_leaves(result):
        function = getattr(getattr(output, "grad_fn", None), "_forward_cls", None)
        if function is not None and function.backward.__name__ != _EXPLAINED:
            _explain(function)


_EXPLAINED = "explained_backward"


def _explain(function: Any) -> None:
    original = function.backward

    def explained_backward(*args: Any) -> Any:
        function.backward = staticmethod(original)
        try:
            return original(*args)
        except NOT_OURS:
            raise
        except Exception as error:
            error.add_note(
                "pitome: this is the first backward pass of a model whose tokens were merged. If "
                "the model trains without the backend, compile it with ratio=1.0 and report this."
            )
            raise

    function.backward = staticmethod(explained_backward)

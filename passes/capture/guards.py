"""Guards on symbolic sizes: what is tried leaves none in the ShapeEnv, unless they are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._guards import detect_fake_mode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

WRITTEN = ("guards", "replacements", "divisible", "fake_tensor_cache")
"""What a guard is written to, but for ranges, axioms and runtime asserts.

A cached result of an op would be used again without the guard that it took.
"""
COUNTERS = ("_version_counter", "_replacements_version_counter")
"""By these torch knows that what it remembers is out of date; not every version has both."""
REMEMBERED = (
    ShapeEnv._inner_evaluate_expr,
    ShapeEnv._maybe_guard_rel,
    ShapeEnv.guard_or_defer_runtime_assert,
)
"""A decision that is remembered would not be recorded the next time it is made."""
ON_LAYOUT = ("_reshape_view_helper", "check_contiguous_sizes_strides")
"""Where torch asks for how a tensor lies in memory."""


def shape_env_of(inputs: Sequence[Any]) -> ShapeEnv | None:
    """The ShapeEnv of fake inputs; None where all sizes are ints."""
    fake_mode = detect_fake_mode(list(inputs))
    return None if fake_mode is None else fake_mode.shape_env


def is_symbolic(value: Any) -> bool:
    """Is it a symbolic size, or a tensor with one?"""
    sizes = value.shape if isinstance(value, torch.Tensor) else (value,)
    return any(isinstance(size, torch.SymInt) for size in sizes)


class Guards:
    """The guards recorded since a moment; they are forgotten unless they are kept."""

    def __init__(self, env: ShapeEnv | None) -> None:
        self._env: Any = env
        self._kept = env is None
        self._axioms_kept = False
        if env is None:
            return
        self._before = {name: getattr(env, name).copy() for name in WRITTEN}
        self._ranges = dict(env.var_to_range)
        self._axioms = dict(env.axioms)
        self._asserts = {key: list(found) for key, found in env.deferred_runtime_asserts.items()}
        self._count = env.num_deferred_runtime_asserts

    def keep(self) -> None:
        """Let them hold from now on: whoever runs the program compiles anew where they do not."""
        self._kept = True

    def hand_on(self) -> None:
        """Prepare for an ExportedProgram, which writes down those it finds when it is made.

        Guards on whether a reshape copies, or a tensor is contiguous, are not for it: nodes are
        right whether it is so or not.
        What follows from all guards stays known, since the ONNX exporter traces by it once more.
        """
        if self._env is not None:
            guards = self._env.guards
            self._env.guards = [
                guard for guard in guards if not any(name in str(guard.sloc) for name in ON_LAYOUT)
            ]
        self._axioms_kept = True

    def end(self) -> None:
        """Forget what is not kept."""
        if self._kept:
            return
        env = self._env
        for name, content in self._before.items():
            setattr(env, name, content)
        # Symbols made meanwhile keep their ranges.
        env.var_to_range.update(self._ranges)
        if not self._axioms_kept:
            env.axioms = self._axioms
        env.deferred_runtime_asserts = self._asserts
        env.num_deferred_runtime_asserts = self._count
        env._update_version_counter()
        for counter in COUNTERS:
            if hasattr(env, counter):
                setattr(env, counter, getattr(env, counter) + 1)
        for function in REMEMBERED:
            function.cache_clear()


@contextmanager
def tentative(inputs: Sequence[Any]) -> Iterator[Guards]:
    """Guards recorded inside are forgotten at the end, unless what is tried here is used.

    They are recorded meanwhile and not suppressed, so that what is decided once is known after it.

    Args:
        inputs: fake tensors and SymInts of the program that it is tried on.
    """
    guards = Guards(shape_env_of(inputs))
    try:
        yield guards
    finally:
        guards.end()

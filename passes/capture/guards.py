"""Guards on symbolic sizes: none is left in the ShapeEnv of the caller's own program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._guards import detect_fake_mode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

CONTAINERS = ("guards", "replacements", "divisible")
"""What guards are written to, but for ranges; the ONNX exporter needs the axioms once more."""


def shape_env_of(inputs: Sequence[Any]) -> ShapeEnv | None:
    """The ShapeEnv of fake inputs; None where all sizes are ints."""
    fake_mode = detect_fake_mode(list(inputs))
    return None if fake_mode is None else fake_mode.shape_env


def is_symbolic(value: Any) -> bool:
    """Is it a symbolic size, or a tensor with one?"""
    sizes = value.shape if isinstance(value, torch.Tensor) else (value,)
    return any(isinstance(size, torch.SymInt) for size in sizes)


class Trial:
    """Whether the guards recorded in a trial stay."""

    kept = False

    def keep(self) -> None:
        """They stay."""
        self.kept = True


@contextmanager
def on_trial(inputs: Sequence[Any]) -> Iterator[Trial]:
    """Guards recorded inside hold inside alone, unless they are kept.

    A new ExportedProgram writes down the guards of its ShapeEnv when it is made, so that it keeps
    them when they are gone from the ShapeEnv, which it shares with the program it is made from.
    """
    trial, env = Trial(), shape_env_of(inputs)
    if env is None:
        yield trial
        return
    before = {name: getattr(env, name).copy() for name in CONTAINERS}
    ranges = dict(env.var_to_range)
    try:
        yield trial
    finally:
        if not trial.kept:
            for name, content in before.items():
                setattr(env, name, content)
            env.var_to_range.update(ranges)
            env._update_version_counter()
            # A decision that is remembered would not be recorded the next time it is made.
            ShapeEnv._inner_evaluate_expr.cache_clear()


def drop_layout_guards(inputs: Sequence[Any]) -> None:
    """Forget guards on whether a reshape copies: its node is right whether it does or not."""
    env = shape_env_of(inputs)
    if env is not None:
        env.guards = [g for g in env.guards if "_reshape_view_helper" not in str(g.sloc)]


@contextmanager
def unguarded(inputs: Sequence[Any]) -> Iterator[None]:
    """Forget the guards recorded inside, where the nodes hold for all sizes.

    They are not suppressed while the nodes are made, for which sizes would then be unknown.
    """
    env = shape_env_of(inputs)
    before = [] if env is None else list(env.guards)
    yield
    if env is not None:
        env.guards = before

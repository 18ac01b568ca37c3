"""Law (a) in float32, bfloat16 and under autocast: no more rounding than the dense program has.

What a rewritten program may differ by is derived from the program. Let y be its simulation with the
groups of the run, in float64 throughout. In the narrow dtype every op i rounds its result v_i to
v_i(1 + δ_i) with |δ_i| ≤ u, the unit roundoff of that result's dtype; to first order the outputs
move by Σ J_i v_i δ_i. The rewritten program has the same ops with the same sensitivities J_i, so
its error has the spread σ of the dense one's, but for two things:

* a group is rounded once, where its s members, rounded each by itself, average out: up to √s times
  the spread, s the size of the largest group;
* merging adds ops: √(n'/n) times for n' ops instead of n.

σ is measured: by the simulation in the narrow dtype itself, and by ``SAMPLES`` simulations in
float64 that multiply the result of every op by 1 + δ, δ uniform in [−u, u]. An error of more than
``SIGMAS`` · √s · √(n'/n) times the largest of these, plus one rounding of the output, is none of
rounding. With seven samples even one number's largest is below σ/4 once in a hundred thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import GraphModule, Node

from pitome_fx.groups import sizes
from pitome_fx.passes.pipeline import Outcome
from pitome_fx.passes.replay.events import ProjectEvent
from pitome_fx.testing.oracle import Simulator
from tests.properties.build import build
from tests.properties.description import Frames, Options, Program, Residual, Route, Step, Tap
from tests.properties.trial import (
    Flat,
    Trial,
    dense_of,
    recorded,
    rewritten,
    with_writes,
    worst_error,
)

SAMPLES = 6
SIGMAS = 6.0
NARROW = (torch.float32, torch.bfloat16, torch.float16)
DTYPES = ("float32", "bfloat16", "autocast")
STEEP = ("where-condition", "masked-fill-tensor", "where-else", "where-scalar", "masked-fill")
"""Ops of ``lending`` that jump where a value changes its sign."""


class Widened(Simulator):
    """The simulation in float64 of a program in a narrow dtype, exact or with drawn roundings."""

    def __init__(self, outcome: Outcome, groups: Sequence[Tensor], seed: int | None) -> None:
        super().__init__(outcome, groups)
        self.draws = None if seed is None else torch.Generator().manual_seed(seed)

    def run(self, *args: Any) -> Any:
        return super().run(*map(_widened, args))

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if self.draws is None or n.op != "call_function":
            return value
        held = {_storage(x) for x in pytree.tree_leaves([self.env[m] for m in n.all_input_nodes])}
        narrow = pytree.tree_leaves(n.meta.get("val"))
        leaves, spec = pytree.tree_flatten(value)
        rounded = [
            x if _storage(x) in held else self._rounded(x, as_traced)
            for x, as_traced in zip(leaves, narrow, strict=True)
        ]
        return pytree.tree_unflatten(rounded, spec)

    def _rounded(self, x: Any, as_traced: Any) -> Any:
        if not isinstance(x, Tensor) or as_traced.dtype not in NARROW:
            return x
        unit = torch.finfo(as_traced.dtype).eps / 2
        draws = torch.rand(x.shape, generator=self.draws, dtype=torch.float64).to(x.device)
        return x * (1 + unit * (2 * draws - 1))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in (
            torch.amp.autocast_mode._enter_autocast,
            torch.amp.autocast_mode._exit_autocast,
        ):
            return None
        return super().call_function(target, *pytree.tree_map(_widened, (args, kwargs)))

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return _widened(super().get_attr(target, args, kwargs))

    def _check_independent(self, event: ProjectEvent, value: Tensor) -> None:
        """Left to float64: members of a group differ by the roundings that are drawn."""


class Narrow(Simulator):
    """The simulation in the narrow dtype."""

    def _check_independent(self, event: ProjectEvent, value: Tensor) -> None:
        """Left to float64: its tolerance is finer than a bfloat16."""


def _widened(x: Any) -> Any:
    if isinstance(x, Tensor) and x.dtype in NARROW:
        return x.double()
    return torch.float64 if isinstance(x, torch.dtype) and x in NARROW else x


def _storage(x: Any) -> int | None:
    return x.untyped_storage().data_ptr() if isinstance(x, Tensor) and x.numel() else None


def narrow(program: Program, options: Options) -> Trial:
    """Laws (a) and (c) of the program in one of the dtypes."""
    kept = [step for step in map(_smooth, program.steps) if step is not None]
    program = replace(
        program,
        steps=tuple(kept),
        readout="mean" if program.readout == "kept" else program.readout,
        dtype=DTYPES[program.seed % len(DTYPES)],
    )
    flat = Flat(*build(program))
    try:
        dense = dense_of(flat)
    except (RuntimeError, NotImplementedError):
        float64 = rewritten(Flat(*build(replace(program, dtype="float64"))), options)
        return Trial(float64, flat, (), (), (), (), [], "torch does not run it in this dtype")
    outcome = rewritten(flat, options)
    if outcome.rewritten is None:
        return Trial(outcome, flat, dense, dense, dense, dense, [], "nothing merges")
    output, groups = recorded(outcome, flat)
    form, wanted = ([(x.shape, x.dtype) for x in xs] for xs in (output, dense))
    assert form == wanted, f"shapes or dtypes changed: {form} instead of {wanted}"
    simulated = with_writes(Narrow(outcome, groups).run, flat)
    exact = with_writes(Widened(outcome, groups, None).run, flat)
    samples = [simulated]
    samples += [with_writes(Widened(outcome, groups, i).run, flat) for i in range(SAMPLES)]
    _judge(output, exact, samples, _more_rounding(outcome.rewritten.graph, outcome, groups))
    return Trial(outcome, flat, output, simulated, dense, dense, groups)


def _judge(
    output: tuple[Tensor, ...],
    exact: tuple[Tensor, ...],
    samples: list[tuple[Tensor, ...]],
    more: float,
) -> None:
    """No output has more error than rounding can be blamed for."""
    for i, found in enumerate(output):
        if not found.is_floating_point():
            continue
        error = worst_error((found,), exact[i : i + 1])
        spread = max(worst_error(sample[i : i + 1], exact[i : i + 1]) for sample in samples)
        limit = SIGMAS * more * spread + torch.finfo(found.dtype).eps / 2
        assert error <= limit, (
            f"output {i} in {found.dtype} has an error of {error:.1e}; rounding explains "
            f"{limit:.1e}, as its simulation has {spread:.1e}"
        )


def _more_rounding(graph: GraphModule, outcome: Outcome, groups: Sequence[Tensor]) -> float:
    """√s · √(n'/n)."""
    largest = max(int(sizes(g).max()) for g in groups)
    ops = [
        sum(node.op == "call_function" for node in g.graph.nodes)
        for g in (graph, outcome.program.graph)
    ]
    return float((largest * ops[0] / max(ops[1], 1)) ** 0.5)


def _smooth(step: Step) -> Step | None:
    """None for a step whose result jumps, so that rounding decides on which side it is."""
    inner = step.step if isinstance(step, Frames) else step
    if isinstance(step, Tap) and step.readout == "kept":
        return None
    if not isinstance(inner, Residual):
        return step
    jumps = isinstance(inner.f, Route) or getattr(inner.f, "op", "") in STEEP
    return None if jumps or getattr(inner.f, "kind", "") == "where-both" else step

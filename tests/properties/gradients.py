"""Law (f): gradients of the rewritten program are those of its simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from pitome_fx.passes.pipeline import Outcome
from pitome_fx.testing import run_recorded
from pitome_fx.testing.oracle import Simulator
from pitome_fx.testing.recorded import Assignments
from tests.properties.trial import LIMIT, Flat, Trial

Run = Callable[..., tuple[Tensor, ...]]

UNTRAINABLE = ("modified inplace", "modified by an inplace", "derivative for aten::copy")
"""What autograd says of programs that it refuses."""

DRAWS = 6
"""Of rounding errors. A program rounds after each op, and not in its inputs alone."""


def same(trial: Trial) -> Trial:
    """Relative to the largest gradient of all: what the softmax does not see has only rounding."""
    rewritten = trial.outcome.rewritten
    if rewritten is None:
        return replace(trial, waived="nothing merges")
    if not _is_trainable(trial.flat):
        return replace(trial, waived="the program itself cannot be trained")
    # Under autograd attention may round otherwise, and a tie fall the other way.
    taken = Assignments()

    def recorded(*values: Tensor) -> tuple[Tensor, ...]:
        output, assignments = run_recorded(rewritten.graph, *values)
        taken.extend(assignments)
        return output

    found = gradients(recorded, trial.flat)
    wanted = gradients(Simulator(trial.outcome, taken).run, trial.flat)
    assert found.keys() == wanted.keys()
    # All gradients vanish where the outputs are constant.
    scale = max((_largest(x) for x in wanted.values()), default=1.0) or 1.0
    for name in wanted:
        finite = torch.equal(found[name].isfinite(), wanted[name].isfinite())
        assert finite, f"not finite: gradient of {name}"
        error = _largest(found[name] - wanted[name]) / scale
        if error > LIMIT and _depend_on_the_kernel(trial.flat):
            return replace(trial, waived="its dense gradients depend on the attention kernel")
        if error > LIMIT and error <= DRAWS * _rounding(trial, taken, wanted) / scale:
            return replace(trial, waived="the last bits of the inputs move its gradients as much")
        assert error <= LIMIT, f"gradient of {name}: {error:.1e} > {LIMIT:.0e}"
    return trial


def gradients(run: Run, flat: Flat) -> dict[str, Tensor]:
    """Of a loss that weighs every output value differently: by parameter, and by input."""
    leaves = {name: x.detach().clone() for name, x in flat.state.items()}
    leaves |= {f"input {i}": x.clone() for i, x in enumerate(flat.inputs)}
    buffers = dict(flat.module.named_buffers())
    for name, x in leaves.items():
        x.requires_grad_(x.is_floating_point() and name not in buffers)
    # A program may write to its inputs, which a leaf forbids.
    outputs = run(*(x.clone() for x in leaves.values()))
    loss = weighed(outputs)
    wanted = {name: x for name, x in leaves.items() if x.requires_grad}
    if loss is None:
        return {}
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return {
        name: torch.zeros_like(x) if grad is None else grad
        for (name, x), grad in zip(wanted.items(), found, strict=True)
    }


def weighed(outputs: tuple[Any, ...]) -> Tensor | None:
    """A sum of all output values, each with a weight of its own; None if nothing depends on x."""
    generator = torch.Generator().manual_seed(0)
    terms = [
        (x * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)).sum()
        for x in outputs
        if isinstance(x, Tensor) and x.requires_grad
    ]
    return torch.stack(terms).sum() if terms else None


class Rounding:
    """Moves every number by about its last bit."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=self.generator, dtype=torch.float64).to(x)
        return x * (1 + torch.finfo(x.dtype).eps * noise)


class RoundingBackward(Simulator):
    """The simulation, with rounding errors in the gradient of every op's result."""

    def __init__(self, outcome: Outcome, groups: list[Tensor], rounding: Rounding) -> None:
        super().__init__(outcome, groups)
        self.rounding = rounding

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        for x in pytree.tree_leaves(value):
            if isinstance(x, Tensor) and x.requires_grad:
                x.register_hook(self.rounding)
        return value


def _rounding(trial: Trial, assignments: list[Tensor], wanted: dict[str, Tensor]) -> float:
    """How far the simulation's gradients move with the last bits of inputs and of gradients.

    Where unmerged tokens are equal and their difference is normalised, that is far. Where a program
    narrows its values their gradients are narrow, too, and rounded as they are summed over copies.
    """
    furthest = 0.0
    rounding = Rounding()

    def simulated(*given: Tensor) -> tuple[Tensor, ...]:
        simulator = RoundingBackward(trial.outcome, assignments, rounding)
        return simulator.run(*(rounding(x) if x.is_floating_point() else x for x in given))

    for _ in range(DRAWS):
        found = gradients(simulated, trial.flat)
        furthest = max(furthest, *(_largest(found[name] - wanted[name]) for name in wanted))
    return furthest


def _is_trainable(flat: Flat) -> bool:
    """Autograd refuses some writes, to views and to what it has kept, in the program as it is."""
    try:
        gradients(flat, flat)
    except RuntimeError as refusal:
        if any(words in str(refusal) for words in UNTRAINABLE):
            return False
        raise
    return True


def _depend_on_the_kernel(flat: Flat) -> bool:
    """Where a mask leaves every score of a row the lowest float, nothing is left of the scores.

    The gradient by them is then one of rounding. torch's fused attention on CPUs gives N times
    what its plain one does (torch 2.13), for N keys.
    """
    default = gradients(flat, flat)
    with sdpa_kernel(SDPBackend.MATH):
        plain = gradients(flat, flat)
    scale = max(map(_largest, plain.values()), default=1.0)
    return any(_largest(default[name] - plain[name]) > LIMIT * scale for name in plain)


def _largest(x: Tensor) -> float:
    """Of the finite values, which may be none."""
    return float(torch.where(x.isfinite(), x, 0).abs().max()) if x.numel() else 0.0

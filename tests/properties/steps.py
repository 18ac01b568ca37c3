"""The steps of a program as modules, each of which changes the state of the run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.properties import description as d
from tests.properties.attention import Attention, Padding
from tests.properties.layers import NORMS, Mlp
from tests.properties.mixing import Mix
from tests.properties.readouts import Readout
from tests.properties.writes import Write


class Run:
    """The state of a running program: its streams, what was saved of each, and its outputs."""

    def __init__(self, streams: list[Tensor], padding: Padding, targets: Tensor) -> None:
        self.streams = streams
        self.padding = padding
        self.seen = padding[0]
        self.targets = targets
        self.saved: list[list[Tensor]] = [[], []]
        self.outputs: list[Tensor] = []


class Step(nn.Module):
    """One step: changes the state."""

    def __init__(self, stream: int) -> None:
        super().__init__()
        self.stream = stream

    def forward(self, run: Run) -> None:
        run.streams[self.stream] = self.apply_to(run.streams[self.stream], run)

    def apply_to(self, x: Tensor, run: Run) -> Tensor:
        """The stream after the step."""
        raise NotImplementedError


def _branch(f: d.Attention | d.Mlp | d.Mix, program: d.Program, stream: int) -> nn.Module:
    if isinstance(f, d.Attention):
        return Attention(f, program, stream)
    if isinstance(f, d.Mlp):
        return Mlp(f.kind, program.width)
    return Mix(f.kind, program.length(stream), program.width, program.dim)


def _run_branch(f: nn.Module, x: Tensor, run: Run, stream: int) -> Tensor:
    if not isinstance(f, Attention):
        return f(x)
    other = run.streams[1 - stream] if len(run.streams) > 1 else x
    return f(x, other, run.padding, run.outputs)


class Residual(Step):
    def __init__(self, spec: d.Residual, program: d.Program) -> None:
        super().__init__(program.stream(spec.stream))
        self.spec = spec
        self.f = _branch(spec.f, program, self.stream)
        self.norm = NORMS[spec.norm](program.width)
        if spec.order == "sandwich":
            self.norm2 = NORMS[spec.norm](program.width)
        if spec.scale:
            self.scale = nn.Parameter(torch.empty(program.width))

    def apply_to(self, x: Tensor, run: Run) -> Tensor:
        order = self.spec.order
        y = self.norm(x) if order in ("pre", "sandwich") else x
        y = _run_branch(self.f, y, run, self.stream)
        if self.spec.scale:
            y = y * self.scale
        if order == "sandwich":
            y = self.norm2(y)
        if order == "plain":
            return y
        if self.spec.inplace:
            x += y
        else:
            x = x + y
        return self.norm(x) if order == "post" else x


class Parallel(Step):
    def __init__(self, spec: d.Parallel, program: d.Program) -> None:
        super().__init__(program.stream(spec.stream))
        self.attention = _branch(spec.attention, program, self.stream)
        self.mlp = _branch(spec.mlp, program, self.stream)
        self.norm = NORMS[spec.norm](program.width)

    def apply_to(self, x: Tensor, run: Run) -> Tensor:
        y = self.norm(x)
        return x + _run_branch(self.attention, y, run, self.stream) + self.mlp(y)


class Writing(Step):
    def __init__(self, spec: d.Write, program: d.Program) -> None:
        super().__init__(program.stream(spec.stream))
        self.write = Write(spec.kind, program.width, program.dim)

    def apply_to(self, x: Tensor, run: Run) -> Tensor:
        return self.write(x, run.seen if self.stream == 0 else None)


class Save(Step):
    def apply_to(self, x: Tensor, run: Run) -> Tensor:
        run.saved[self.stream].append(x)
        return x


class Swap(Step):
    def apply_to(self, x: Tensor, run: Run) -> Tensor:
        if not run.saved[self.stream]:
            return x
        before = run.saved[self.stream].pop()
        run.saved[self.stream].append(x)
        return before


class Join(Step):
    def __init__(self, spec: d.Join, program: d.Program) -> None:
        super().__init__(program.stream(spec.stream))
        self.how = spec.how
        if spec.how == "cat":
            self.fuse = nn.Linear(2 * program.width, program.width)

    def apply_to(self, x: Tensor, run: Run) -> Tensor:
        if not run.saved[self.stream]:
            return x
        saved = run.saved[self.stream].pop()
        if self.how == "cat":
            return self.fuse(torch.cat([x, saved], -1))
        if self.how == "mul":
            return x * saved.sigmoid()
        return torch.lerp(x, saved, 0.3) if self.how == "lerp" else x + saved


class Again(Step):
    """Runs an earlier step; kept in a list, it is not a second path to the same parameters."""

    def __init__(self, step: nn.Module | None) -> None:
        super().__init__(0)
        self.of = [step]

    def forward(self, run: Run) -> None:
        if self.of[0] is not None:
            self.of[0](run)


class Tap(Step):
    def __init__(self, spec: d.Tap, program: d.Program) -> None:
        super().__init__(program.stream(spec.stream))
        self.readout = readout_of(spec.readout, self.stream, program)

    def apply_to(self, x: Tensor, run: Run) -> Tensor:
        run.outputs.append(self.readout(x, run.seen, run.targets))
        return x


def readout_of(kind: str, stream: int, program: d.Program) -> Readout:
    return Readout(kind, program.length(stream), program.width, program.heads, program.dim)


def step_of(step: d.Step, program: d.Program) -> Step:
    makers: dict[type, Any] = {
        d.Residual: Residual,
        d.Parallel: Parallel,
        d.Write: Writing,
        d.Join: Join,
        d.Tap: Tap,
    }
    if isinstance(step, d.Save):
        return Save(program.stream(step.stream))
    if isinstance(step, d.Swap):
        return Swap(program.stream(step.stream))
    return makers[type(step)](step, program)

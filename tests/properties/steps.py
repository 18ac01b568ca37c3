"""The steps of a program as modules, each of which changes the state of the run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tests.properties import description as d
from tests.properties.attention import Attention, Padding
from tests.properties.layers import NORMS, Mlp
from tests.properties.lending import Lend
from tests.properties.mixing import Mix
from tests.properties.readouts import Readout
from tests.properties.residuals import IN_PLACE, SPELLINGS
from tests.properties.routing import Route
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


def _branch(f: d.F, program: d.Program, stream: int) -> nn.Module:
    if isinstance(f, d.Attention):
        return Attention(f, program, stream)
    if isinstance(f, d.Mlp):
        return Mlp(f.kind, program.width)
    tokens, width = program.length(stream), program.width
    if isinstance(f, d.Lend):
        return Lend(f, tokens, width, program.dim, stream)
    return (Route if isinstance(f, d.Route) else Mix)(f.kind, tokens, width, program.dim)


def _run_branch(f: nn.Module, x: Tensor, run: Run, stream: int) -> Tensor:
    if isinstance(f, Lend):
        return f(x, 0.5 + run.targets[:, 0] / 4)
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
            x = (SPELLINGS | IN_PLACE)[self.spec.spelling](x, y)
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


class Frames(Step):
    """A step on tokens whose frames are folded the other way."""

    def __init__(self, spec: d.Frames, program: d.Program) -> None:
        super().__init__(program.stream(spec.step.stream))
        tokens = program.length(self.stream)
        self.dim, self.apart = program.dim, program.frames == 0
        self.count = program.frames or math.gcd(tokens, spec.count)
        tokens = tokens // self.count if self.apart else tokens * self.count
        inner = replace(program, tokens=tokens, prefix=0, suffix=0, other=0, hidden=(), frames=0)
        self.step = step_of(replace(spec.step, stream=0), inner)

    def apply_to(self, x: Tensor, run: Run) -> Tensor:
        rows = x if self.dim == 1 else x.transpose(0, 1)
        if self.apart:
            folded = rows.unflatten(1, (self.count, -1)).flatten(0, 1)
            targets = run.targets.repeat_interleave(self.count, 0)
        else:
            folded = rows.unflatten(0, (-1, self.count)).flatten(1, 2)
            targets = run.targets[:: self.count]
        inner = Run([folded if self.dim == 1 else folded.transpose(0, 1)], (None, None), targets)
        inner.outputs = run.outputs
        self.step(inner)
        out = inner.streams[0] if self.dim == 1 else inner.streams[0].transpose(0, 1)
        out = out.reshape(rows.shape)
        return out if self.dim == 1 else out.transpose(0, 1)


def readout_of(kind: str, stream: int, program: d.Program) -> Readout:
    return Readout(kind, program.length(stream), program.width, program.heads, program.dim)


def step_of(step: d.Step, program: d.Program) -> Step:
    makers: dict[type, Any] = {
        d.Residual: Residual,
        d.Parallel: Parallel,
        d.Write: Writing,
        d.Join: Join,
        d.Tap: Tap,
        d.Frames: Frames,
    }
    if isinstance(step, d.Save):
        return Save(program.stream(step.stream))
    if isinstance(step, d.Swap):
        return Swap(program.stream(step.stream))
    return makers[type(step)](step, program)

"""From a description to a module and its inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.properties import description as d
from tests.properties.attention import Padding
from tests.properties.masks import LOWEST
from tests.properties.steps import Again, Run, readout_of, step_of

VOCABULARY = 11


def build(program: d.Program) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The program as a float64 module in eval mode with random weights, and a call of it."""
    with torch.random.fork_rng():
        torch.manual_seed(program.seed)
        module = Module(program).double().eval()
        _randomise(module)
        return module, _inputs(program)


def _randomise(module: nn.Module) -> None:
    """Weights of a size that keeps values near 1; nothing is zero, so that no loss goes unseen."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            fan_in = parameter.shape[1:].numel() if parameter.dim() > 1 else 1
            is_weight = parameter.dim() > 1 and parameter.shape[0] > 1
            parameter.normal_(std=fan_in**-0.5 if is_weight else 0.5)
            if parameter.dim() == 1 and name.endswith("weight"):  # a norm's
                parameter.add_(1.0)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)


def _inputs(program: d.Program) -> tuple[Tensor, ...]:
    """The first stream, targets, and where the program has them the second stream and the mask."""
    batch, tokens, width = program.batch, program.tokens, program.width
    if program.embed == "ids":
        x = torch.randint(0, VOCABULARY, (batch, tokens))
    elif program.embed == "conv":
        x = torch.randn(batch, 3, 2 * tokens, dtype=torch.float64)
    else:
        x = torch.randn(batch, tokens, width, dtype=torch.float64)
    longest = max(program.total, program.other)
    inputs = [x, torch.randint(0, 5, (batch, longest))]
    if program.other:
        inputs.append(torch.randn(batch, program.other, width, dtype=torch.float64))
    if program.hidden:
        seen = torch.ones(batch, program.total, dtype=torch.bool)
        for item, count in enumerate(program.hidden[:batch]):
            seen[item, max(program.total - count, 0) :] = False
        inputs.append(given_padding(program.padding, seen))
    return tuple(inputs)


def given_padding(padding: str, seen: Tensor) -> Tensor:
    """A padding mask as the caller of a program gives it."""
    if padding == "additive":
        return torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, LOWEST)[
            :, None, None
        ]
    kinds = {"bool": torch.bool, "int": torch.int64, "float": torch.float64}
    return seen.to(kinds[padding])


def read_padding(padding: str, given: Tensor) -> Padding:
    """What a program makes of it."""
    if padding == "additive":
        return given[:, 0, 0] == 0, given
    if padding == "float":
        return given > 0.5, None
    return (given if padding == "bool" else given != 0), None


class Module(nn.Module):
    """What a description describes."""

    def __init__(self, program: d.Program) -> None:
        super().__init__()
        self.program = program
        width = program.width
        if program.embed == "linear":
            self.embed: nn.Module = nn.Linear(width, width)
        elif program.embed == "conv":
            self.embed = nn.Conv1d(3, width, 2, 2)
        elif program.embed == "ids":
            self.embed = nn.Embedding(VOCABULARY, width)
        if program.positions == "before":
            self.positions = nn.Parameter(torch.empty(1, program.tokens, width))
        elif program.positions == "after":
            self.positions = nn.Parameter(torch.empty(1, program.total, width))
        if program.prefix:
            self.front = nn.Parameter(torch.empty(1, program.prefix, width))
        if program.suffix:
            self.back = nn.Parameter(torch.empty(1, program.suffix, width))
        self.steps = nn.ModuleList()
        for step in program.steps:
            if isinstance(step, d.Again):
                known = step.step < len(self.steps)
                self.steps.append(Again(self.steps[step.step] if known else None))
            else:
                self.steps.append(step_of(step, program))
        streams = range(2 if program.other else 1)
        self.readouts = nn.ModuleList(readout_of(program.readout, i, program) for i in streams)

    def forward(
        self,
        x: Tensor,
        targets: Tensor,
        *rest: Tensor,
    ) -> Any:
        program = self.program
        given = list(rest)
        streams = [self._embed(x)]
        if program.other:
            streams.append(given.pop(0))
            if program.layout == "NBC":
                streams[1] = streams[1].transpose(0, 1)
        padding = read_padding(program.padding, given[0]) if given else (None, None)
        run = Run(streams, padding, targets)
        for step in self.steps:
            step(run)
        for x, readout in zip(run.streams, self.readouts, strict=True):
            run.outputs.append(readout(x, run.seen, targets))
        return _formed(program.form, run.outputs)

    def _embed(self, x: Tensor) -> Tensor:
        program = self.program
        if program.embed == "conv":
            x = self.embed(x).transpose(1, 2)
        elif program.embed != "identity":
            x = self.embed(x)
        if program.positions == "before":
            x = x + self.positions
        pieces = [x]
        if program.prefix:
            pieces.insert(0, self.front.expand(x.shape[0], -1, -1))
        if program.suffix:
            pieces.append(self.back.expand(x.shape[0], -1, -1))
        if len(pieces) > 1:
            x = torch.cat(pieces, 1)
        if program.positions == "after":
            x = x + self.positions
        return x.transpose(0, 1) if program.layout == "NBC" else x


def _formed(form: str, outputs: list[Tensor]) -> Any:
    if form == "dict":
        return {f"output_{i}": output for i, output in enumerate(outputs)}
    if form == "nested":
        return {"first": outputs[0], "rest": (outputs[1:], None)}
    return tuple(outputs) if form == "tuple" or len(outputs) > 1 else outputs[0]

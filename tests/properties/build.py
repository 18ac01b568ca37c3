"""From a description to a module and its inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.properties import description as d
from tests.properties.attention import Padding
from tests.properties.outputs import formed
from tests.properties.steps import Again, Run, readout_of, step_of
from tests.support.device import DEVICE

VOCABULARY = 11


DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "autocast": torch.float32,
}


def build(program: d.Program) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The program as a module in eval mode with random weights, and a call of it."""
    dtype = DTYPES[program.dtype]
    with torch.random.fork_rng():
        torch.manual_seed(program.seed)
        module = Module(program).double().eval()
        _randomise(module)
        if program.copies > 1:
            _tie(module, program)
        inputs = _inputs(program)
        # Drawn where the reference machine draws, so that a seed means the same everywhere.
        call = (x.to(dtype) if x.is_floating_point() else x for x in inputs)
        return module.to(DEVICE, dtype), tuple(x.to(DEVICE) for x in call)


def originals(program: d.Program, stream: int) -> Tensor:
    """Of every token of a stream the place (T,) of the first that is its exact copy.

    The copies are dealt like cards, one of each to a deck, and every deck is shuffled.
    """
    front, back = (program.prefix, program.suffix) if stream == 0 else (0, 0)
    tokens = program.length(stream) - front - back
    kinds = tokens // program.copies
    generator = torch.Generator().manual_seed(program.seed)
    decks = [torch.randperm(kinds, generator=generator) for _ in range(program.copies)]
    kind = torch.stack(decks, 1).flatten()
    at = torch.arange(len(kind))
    first = torch.full((kinds,), tokens).scatter_reduce(0, kind, at, "amin")
    place = torch.cat([first[kind], torch.arange(len(kind), tokens)])
    ends = front + tokens + torch.arange(back)
    return torch.cat([torch.arange(front), front + place, ends])


def _tie(module: nn.Module, program: d.Program) -> None:
    """Parameters along tokens are alike for all copies of a token."""
    with torch.no_grad():
        for part in module.modules():
            for name, places in getattr(part, "along_tokens", {}).items():
                parameter = getattr(part, name)
                for dim, stream in places:
                    index = originals(program, stream)
                    if parameter.shape[dim] == len(index) - program.prefix - program.suffix:
                        index = index[program.prefix : len(index) - program.suffix] - program.prefix
                    parameter.copy_(parameter.index_select(dim, index))


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
    shape = (batch, *([program.frames] if program.frames else []))
    if program.embed == "ids":
        x = torch.randint(0, VOCABULARY, (*shape, tokens))
    elif program.embed == "conv":
        x = torch.randn(*shape, 3, 2 * tokens, dtype=torch.float64)
    else:
        x = torch.randn(*shape, tokens, width, dtype=torch.float64)
    longest = max(program.total, program.other)
    inputs = [x, torch.randint(0, 5, (*shape, longest))]
    if program.other:
        inputs.append(torch.randn(batch, program.other, width, dtype=torch.float64))
    if program.hidden:
        seen = torch.ones(batch, program.total, dtype=torch.bool)
        for item, count in enumerate(program.hidden[:batch]):
            seen[item, max(program.total - count, 0) :] = False
        inputs.append(seen)
    if program.copies > 1:
        inputs = _copied(program, inputs)
    if program.hidden:
        inputs[-1] = given_padding(program, inputs[-1])
    return tuple(inputs)


def _copied(program: d.Program, inputs: list[Tensor]) -> list[Tensor]:
    """The inputs with exact copies of tokens in them."""
    index = originals(program, 0)
    own = index[program.prefix : program.total - program.suffix] - program.prefix
    x, *rest = inputs
    if program.embed == "conv":
        x = x.unflatten(-1, (-1, 2)).index_select(-2, own).flatten(-2)
    elif program.embed == "ids":
        x = x.index_select(-1, own)
    else:
        x = x.index_select(-2, own)
    if program.other:
        rest[1] = rest[1].index_select(-2, originals(program, 1))
    if program.hidden:
        rest[-1] = rest[-1].index_select(-1, index)
    return [x, *rest]


def given_padding(program: d.Program, seen: Tensor) -> Tensor:
    """A padding mask as the caller of a program gives it."""
    dtype = DTYPES[program.dtype]
    if program.padding == "additive":
        lowest = torch.finfo(dtype).min
        return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, lowest)[:, None, None]
    kinds = {"bool": torch.bool, "int": torch.int64, "float": dtype}
    return seen.to(kinds[program.padding])


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
        self.along_tokens = {} if program.positions == "none" else {"positions": ((1, 0),)}
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

    def forward(self, x: Tensor, targets: Tensor, *rest: Tensor) -> Any:
        if self.program.dtype != "autocast":
            return self._forward(x, targets, *rest)
        with torch.autocast(x.device.type, torch.bfloat16):
            return self._forward(x, targets, *rest)

    def _forward(self, x: Tensor, targets: Tensor, *rest: Tensor) -> Any:
        program, whole = self.program, x
        given = list(rest)
        if program.frames:
            x, targets = x.flatten(0, 1), targets.flatten(0, 1)
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
        return formed(program.form, run.outputs, whole)

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

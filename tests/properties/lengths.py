"""Two lengths of one program: traced once with a symbolic number of tokens, right at both."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)

from tests.properties import laws, mixing, routing, several
from tests.properties.build import build
from tests.properties.description import (
    Again,
    Attention,
    Frames,
    Lend,
    Mix,
    Options,
    Parallel,
    Program,
    Residual,
    Route,
    Step,
    Tap,
)
from tests.properties.masks import IN_GRAPH, OF_PADDING
from tests.properties.trial import (
    LIMIT,
    Flat,
    Trial,
    of_users,
    rewritten,
    tried,
    worst_error,
)

FREE_OF_LENGTH = {
    *mixing.KNOWN,
    *several.KINDS,
    *mixing.ACROSS_BATCH,
    *("roll", "flip", "cumsum", "sort", "fft", "conv1d", "differences", "group-norm", "pool"),
    *("var", "norm", "median", "affinity", "logcumsumexp"),
    *("one-hot", "soft", "slots", "slots-einsum"),
}
"""Mixers that keep no number of tokens as a size or an index."""

assert mixing.KINDS.keys() | routing.KINDS.keys() >= FREE_OF_LENGTH

READOUTS = {
    *("tokens", "logits", "first", "last", "mean", "max", "max-values", "norm-mean", "norm-first"),
    *("pool", "softmax-pool", "top", "everything", "cut", "channels"),
}
"""Read-outs that keep none."""


def of_any_length(program: Program) -> Program:
    """The program without what holds for one number of tokens only."""
    steps = tuple(step for step in map(_of_any_length, program.steps) if step is not None)
    return replace(
        program,
        steps=steps,
        tokens=max(program.tokens, 6),
        other=0,
        copies=1,
        embed="linear" if program.embed == "conv" else program.embed,
        positions="none",
        readout=program.readout if program.readout in READOUTS else "tokens",
    )


def _of_any_length(step: Step) -> Step | None:
    if isinstance(step, Again):
        return None
    if isinstance(step, Frames):
        inner = _of_any_length(step.step)
        return replace(step, step=inner) if isinstance(inner, Residual | Parallel) else inner
    if isinstance(step, Tap):
        return step if step.readout in READOUTS else None
    if isinstance(step, Parallel):
        return replace(step, attention=_unsized(step.attention))
    if not isinstance(step, Residual):
        return step
    if isinstance(step.f, Attention):
        return replace(step, f=_unsized(step.f))
    if isinstance(step.f, Mix | Route):
        return step if step.f.kind in FREE_OF_LENGTH else None
    return None if isinstance(step.f, Lend) and "T" in step.f.shape else step


def _unsized(attention: Attention) -> Attention:
    """An attention whose biases are computed for any number of tokens."""
    masks = {"none", "causal-tril", *IN_GRAPH, *OF_PADDING} - {"learned-padding"}
    second = attention.second if attention.second in IN_GRAPH else "none"
    return replace(
        attention, mask=attention.mask if attention.mask in masks else "none", second=second
    )


class Symbolic(Flat):
    """A module whose trace has a symbol for the number of its tokens."""

    def fakes(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
        inputs = len(values) - len(self.inputs)
        place = self.module.program.frames > 0  # type: ignore[union-attr, operator]
        found = []
        for i, x in enumerate(values):
            sizes = [DimDynamic.STATIC] * x.dim()
            if i >= inputs:
                token = -1 if x.dim() == 4 and not place else 1 + bool(place)
                sizes[token] = DimDynamic.DYNAMIC
            context = StatelessSymbolicContext(dynamic_sizes=sizes)
            found.append(mode.from_tensor(x, symbolic_context=context))
        return found


def two_lengths(program: Program, options: Options) -> Trial:
    """Laws (a) and (c) at the length that was traced and at another, for the same graph.

    And what merges there is what a trace of that length alone has merge.
    """
    program = of_any_length(program)
    options = {**of_users(options), "pays": True}
    # Counts that are symbols are not rounded, and the report says so.
    options.pop("round_to", None)
    flat = Symbolic(*build(program))
    outcome = rewritten(flat, options)
    if outcome.rewritten is None:
        return replace(tried(outcome, flat), waived="nothing merges")
    trial = tried(outcome, flat)
    laws.captured(trial)
    laws.simulated(trial)
    for tokens in (program.tokens + 3, program.tokens * 2 // 3 + 2):
        _, inputs = build(replace(program, tokens=tokens))
        there = tried(outcome, Flat(flat.module, inputs))
        laws.captured(there)
        laws.simulated(there)
        _as_static(there, options)
    return trial


def _protected(trial: Trial) -> list[tuple[int, int]]:
    """How many tokens never merge, at the front and at the back, in each block."""
    return [(block.front, block.back) for block in trial.outcome.detection.blocks]


def _as_static(trial: Trial, options: Options) -> None:
    """What was traced with symbols computes what a trace at the very length does.

    A cut that is too deep to be protected at this length may be protected where none is known.
    """
    alone = tried(rewritten(Flat(trial.flat.module, trial.flat.inputs), options), trial.flat)
    alike = alone.merges == trial.merges and _protected(alone) == _protected(trial)
    if not alike or laws.has_ties(trial):
        return
    error = worst_error(trial.output, alone.output)
    assert error <= LIMIT, f"with a symbolic length it computes something else: {error:.1e}"

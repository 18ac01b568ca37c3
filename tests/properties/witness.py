"""(o) Merging exact copies changes nothing: a witness that shares no labels with the pass.

Every token of a drawn program, less the steps that would tell equal tokens apart, is there twice or
more, and the options let just the copies merge; the groups recorded in the run say whether they
did. Then the outputs must be those of the dense program, whatever reads the tokens. No simulation
is asked, which knows of the axes by the same labels as the pass.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pitome_fx.passes.detect.detection import detect
from pitome_fx.passes.pipeline import Outcome
from pitome_fx.passes.plan.planning import first_per_point
from tests.properties import mixing, routing, several
from tests.properties.build import build, originals
from tests.properties.description import (
    Again,
    Attention,
    Frames,
    Mix,
    Options,
    Parallel,
    Program,
    Residual,
    Route,
    Step,
    Write,
)
from tests.properties.masks import OF_PADDING
from tests.properties.trial import (
    LIMIT,
    Flat,
    Trial,
    captured,
    rewritten,
    tried,
    worst_error,
)

KEEPING = {*mixing.KNOWN, *several.KINDS, *mixing.ACROSS_BATCH, *routing.SAFE} | {
    "var",
    "norm",
    "median",
    "middle",
    "affinity",
    "group-norm",
}
"""Mixers after which equal tokens are equal still."""

WRITES = ("add", "view", "transposed", "read-before", "hide", "channels", "into-zeros", "halves")
"""Writes of the same to all tokens."""

BIASES = ("none", "learned", *OF_PADDING)
"""Masks that can be alike for equal tokens; the others know where a token is."""


def with_copies(program: Program) -> Program:
    """The program with copies of its tokens, and without what would tell them apart.

    After the last attention anything may be: no merge follows it.
    """
    copies = 4 if program.seed % 4 == 3 else 2
    tokens = max(program.tokens // copies, 2) * copies
    other = max(program.other // copies, 2) * copies if program.other else 0
    count = len(program.steps)
    steps = tuple(step for step in program.steps if not isinstance(step, Again))
    last = max((i for i, step in enumerate(steps) if _attends(step)), default=count)
    kept = [_keeping(step, program, i > last) for i, step in enumerate(steps)]
    return replace(
        program,
        steps=tuple(step for step in kept if step is not None),
        tokens=tokens,
        other=other,
        copies=copies,
        # Of few words many are the same, and equal tokens of more kinds than one.
        embed="linear" if program.embed == "ids" else program.embed,
        batch=min(program.batch, 3),
    )


JOINING = ("pitome", "pitome-elu", "pitome-bsm", "pitome-mean", "tome", "crossget")
"""Algorithms that find the copies. In the order of ``pitome-text`` they lie in the same half, GTP
adds what it removes to others, and the rest go by importance or by places.
"""


def only_copies(program: Program, options: Options, flat: Flat) -> Outcome:
    """A rewrite by which every copy merges, and nothing else can: as many halvings as it takes."""
    halvings = program.copies.bit_length() - 1
    # Without weights a group counts as one token, and merging copies does change something.
    left_out = ("ratio", "r", "flops", "schedule", "protect", "proportional")
    chosen = {key: value for key, value in options.items() if key not in left_out}
    source = captured(flat)
    streams: dict[object, list[int]] = {}
    for block in first_per_point(detect(source, None).blocks):
        streams.setdefault(block.axis, []).append(block.site.number)
    sites: list[int] = []
    for numbers in streams.values():
        start = program.seed % max(len(numbers) - halvings + 1, 1)
        sites += numbers[start : start + halvings]
    if chosen.get("algorithm") not in JOINING:
        chosen["algorithm"] = "pitome"
        chosen.pop("algorithm_options", None)
    chosen |= {"ratio": 0.5, "blocks": tuple(sites), "min_tokens": 2, "pays": True}
    return rewritten(flat, chosen, source)


def _attends(step: Step) -> bool:
    step = step.step if isinstance(step, Frames) else step
    return isinstance(step, Parallel) or (
        isinstance(step, Residual) and isinstance(step.f, Attention)
    )


def _keeping(step: Step, program: Program, at_the_end: bool) -> Step | None:
    """A step after which equal tokens are equal still; None where it is of another kind."""
    if isinstance(step, Frames):
        # Frames cut out of the tokens would have the copies of a token in different items.
        inner = _keeping(step.step, program, at_the_end)
        known = isinstance(inner, Residual | Parallel)
        return Frames(inner, step.count) if known and program.frames else inner  # type: ignore[arg-type]
    if isinstance(step, Parallel):
        return replace(step, attention=_placeless(step.attention, program))
    if isinstance(step, Write):
        return step if at_the_end or step.kind in WRITES else None
    if not isinstance(step, Residual) or at_the_end:
        return step
    if isinstance(step.f, Attention):
        return replace(step, f=_placeless(step.f, program))
    if isinstance(step.f, Mix | Route):
        return step if step.f.kind in KEEPING else None
    return step


def _placeless(attention: Attention, program: Program) -> Attention:
    """An attention that does not know where tokens are, but by parameters alike for copies."""
    allowed = ("none", *OF_PADDING) if program.frames else BIASES
    return replace(
        attention,
        mask=attention.mask if attention.mask in allowed else "none",
        second="learned" if attention.second != "none" and not program.frames else "none",
        rope="none",
    )


def unchanged(program: Program, options: Options) -> Trial:
    """Law (o), for a program with copies made of this one."""
    program = with_copies(program)
    flat = Flat(*build(program))
    trial = tried(only_copies(program, options, flat), flat)
    if not trial.merges:
        return replace(trial, waived="nothing merges")
    for groups in trial.assignments:
        if not _only_copies_merged(groups.cpu(), program):
            return replace(trial, waived="other tokens merge than copies")
    error = worst_error(trial.output, trial.dense)
    assert error <= LIMIT, f"merging exact copies changes the outputs: {error:.1e} > {LIMIT:.0e}"
    return trial


def _only_copies_merged(groups: Tensor, program: Program) -> bool:
    """Are the members of every group (B, N) copies of one token?"""
    tokens = groups.shape[1]
    streams = [i for i in range(1 + bool(program.other)) if program.length(i) == tokens]
    if streams:
        kinds = [originals(program, i) for i in streams]
    else:
        own = originals(program, 0)
        if tokens % len(own):
            # Attention between channels merges channels.
            return False
        kinds = [torch.cat([own + i * len(own) for i in range(tokens // len(own))])]
    return any(all(_is_refined_by(row, kind) for row in groups) for kind in kinds)


def _is_refined_by(row: Tensor, kind: Tensor) -> bool:
    """Are all tokens of a group of one kind?"""
    pairs: Any = torch.stack([row, kind]).unique(dim=1)
    return bool(pairs.shape[1] == len(row.unique()))

"""The ways in which a drawn program is tried: each checks laws that cost about as much."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from tests.properties import gradients, laws
from tests.properties.compiled import as_traced
from tests.properties.description import Options, Program
from tests.properties.dtypes import narrow
from tests.properties.lengths import two_lengths
from tests.properties.placing import placed
from tests.properties.trial import Trial, run
from tests.properties.witness import unchanged
from tests.support import regions

Way = Callable[[Program, Options], Trial]


def traced(program: Program, options: Options) -> Trial:
    """One trace: laws (a), (c) and (d)."""
    trial = run(program, options)
    laws.captured(trial)
    laws.simulated(trial)
    laws.partitioned(trial)
    laws.special_apart(trial, program)
    laws.padding_apart(trial, program)
    return trial


def examined(program: Program, options: Options) -> Trial:
    """The same in the form asked for, and what the graph and the report say: (i) and (m)."""
    trial = traced(program, options)
    laws.dissolved(trial)
    laws.sound(trial)
    laws.reasoned(trial)
    return trial


def trained(program: Program, options: Options) -> Trial:
    """Law (f)."""
    return gradients.same(run(program, options))


def one_by_one(program: Program, options: Options) -> Trial:
    """Law (g)."""
    return laws.one_by_one(program, options)


def dynamo(program: Program, options: Options) -> Trial:
    """By way of torch.compile, its graph run op by op."""
    return as_traced(program, options, "eager")


def by_regions(program: Program, options: Options) -> Trial:
    """By way of torch.compile, its graph cut wherever it may be."""
    with regions.by_regions():
        return as_traced(program, options, regions.NAME)


def inductor(program: Program, options: Options) -> Trial:
    """By way of torch.compile, its graph compiled."""
    return as_traced(program, options, "inductor")


WAYS: dict[str, Way] = {
    way.__name__: way
    for way in (
        traced,
        examined,
        trained,
        one_by_one,
        unchanged,
        narrow,
        two_lengths,
        placed,
        dynamo,
        by_regions,
        inductor,
    )
}

ROUNDS = (
    *[("traced", 25)] * 9,
    ("unchanged", 30),
    ("narrow", 16),
    ("two_lengths", 5),
    ("placed", 10),
    *[("examined", 25)] * 2,
    *[("trained", 20)] * 2,
    ("one_by_one", 21),
    ("dynamo", 6),
    ("by_regions", 15),
    ("inductor", 2),
)
"""How many programs are tried in which way, again and again."""


def rounds(count: int) -> Iterator[tuple[str, int]]:
    """``count`` programs in rounds."""
    for way, examples in itertools.cycle(ROUNDS):
        if count <= 0:
            return
        yield way, min(examples, count)
        count -= examples

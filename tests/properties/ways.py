"""The ways in which a drawn program is tried: each checks laws that cost about as much."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from tests.properties import gradients, laws
from tests.properties.compiled import as_traced
from tests.properties.description import Options, Program
from tests.properties.trial import Trial, run

Way = Callable[[Program, Options], Trial]


def traced(program: Program, options: Options) -> Trial:
    """One trace: laws (a), (c), (d), (i) and (m)."""
    trial = run(program, options)
    laws.simulated(trial)
    laws.partitioned(trial)
    laws.padding_apart(trial, program)
    laws.sound(trial)
    laws.reasoned(trial)
    return trial


def trained(program: Program, options: Options) -> Trial:
    """Law (f)."""
    trial = run(program, options)
    gradients.same(trial)
    return trial


def one_by_one(program: Program, options: Options) -> Trial:
    """Law (g)."""
    trial, _ = laws.one_by_one(program, options)
    return trial


def dynamo(program: Program, options: Options) -> Trial:
    """By way of torch.compile, its graph run op by op."""
    return as_traced(program, options, "eager")


def inductor(program: Program, options: Options) -> Trial:
    """By way of torch.compile, its graph compiled."""
    return as_traced(program, options, "inductor")


WAYS: dict[str, Way] = {
    way.__name__: way for way in (traced, trained, one_by_one, dynamo, inductor)
}

SHARES = {"traced": 320, "trained": 40, "one_by_one": 24, "dynamo": 14, "inductor": 2}
"""Of 400 programs, how many are tried in each way."""

ways = st.sampled_from([name for name, share in SHARES.items() for _ in range(share)])
"""The name of a way."""

"""Drawn programs through torch.compile, and law (k): what a compile is known by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.utils import counters

from pitome_fx import ALGORITHMS
from pitome_fx import Options as Parsed
from pitome_fx.backends.caching import digest
from pitome_fx.options import AMOUNTS
from tests.properties import share
from tests.properties.build import build
from tests.properties.compiled import as_traced
from tests.properties.description import Attention, Options, Program, Residual
from tests.properties.found import BLOCK
from tests.properties.programs import options, programs
from tests.properties.trial import of_users
from tests.properties.ways import by_regions

RATIOS = st.sampled_from([0.5, 0.75, 1, 1.0])

ANY: dict[str, st.SearchStrategy[Any]] = {
    "ratio": RATIOS,
    "r": st.integers(0, 3),
    "flops": RATIOS,
    "schedule": st.lists(RATIOS, min_size=1, max_size=3),
    "speedup": st.sampled_from([1, 1.0, 1.5]),
    "latency": st.sampled_from([1, 1.0, 0.5]),
    "algorithm": st.sampled_from(sorted(ALGORITHMS)),
    "algorithm_options": st.just({}),
    "metric": st.sampled_from(["keys", "hidden"]),
    "protect": st.sampled_from(["auto", 0, 1]),
    "proportional": st.booleans(),
    "blocks": st.lists(st.integers(0, 2), max_size=2),
    "min_tokens": st.integers(2, 3),
    "round_to": st.integers(1, 2),
    "form": st.sampled_from([None, "pitome", "aten", "portable"]),
    "lowering": st.sampled_from(["eager", "inductor"]),
    "lowering_options": st.dictionaries(st.sampled_from("ab"), st.integers(0, 1)),
    "regions": st.sampled_from(["auto", True, False]),
    "strict": st.booleans(),
}
"""For every option a few values, some of them equal though written differently."""


@st.composite
def any_options(draw: st.DrawFn) -> Parsed:
    """Valid options of any kind."""
    keys = draw(st.lists(st.sampled_from(sorted(ANY)), unique=True, max_size=4))
    amounts = [key for key in keys if key in AMOUNTS]
    drawn = {key: draw(ANY[key]) for key in keys if key not in amounts[1:]}
    return Parsed.parse(drawn)


@share(20)
@given(any_options(), any_options())
def test_k_digests_are_equal_where_options_are(first: Parsed, second: Parsed) -> None:
    assert (digest(first) == digest(second)) is (first == second)


@share(5)
@given(st.data())
def test_k_every_option_counts(data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(ANY)))
    one, other = Parsed.parse({key: data.draw(ANY[key])}), Parsed.parse({key: data.draw(ANY[key])})
    assert (digest(one) == digest(other)) is (one == other)


def test_k_any_option_is_drawn() -> None:
    assert ANY.keys() == vars(Parsed()).keys()


@share(0.2)
@given(options())
def test_k_equal_options_hit_the_same_compile(chosen: Options) -> None:
    torch._dynamo.reset()
    module, inputs = build(Program((*BLOCK, *BLOCK), tokens=24))
    chosen = {**of_users(chosen), "lowering": "eager"}
    before = counters["stats"]["unique_graphs"]
    for _ in range(2):
        with torch.no_grad():
            torch.compile(module, backend="pitome", options=dict(chosen))(*inputs)
        assert counters["stats"]["unique_graphs"] == before + 1
    with torch.no_grad():
        torch.compile(module, backend="pitome", options={**chosen, "min_tokens": 4})(*inputs)
    assert counters["stats"]["unique_graphs"] == before + 2


@share(0.3)
@given(programs(), options())
def test_dynamo_finds_what_a_trace_finds(program: Program, chosen: Options) -> None:
    as_traced(program, chosen, "eager")


@share(0.5)
@given(programs(), options())
def test_a_graph_in_regions_computes_what_a_trace_computes(
    program: Program, chosen: Options
) -> None:
    by_regions(program, chosen)


@pytest.mark.slow
def test_inductor_computes_what_a_trace_computes() -> None:
    """One program, and a plain one, for its time; ``make fuzz`` draws them."""
    program = Program(
        (Residual(Attention(mask="min")), Residual(Attention("matmul", mask="min"), norm="none")),
        batch=2,
        tokens=20,
        prefix=1,
        hidden=(0, 6),
        readout="mean",
    )
    assert as_traced(program, {"ratio": 0.75, "pays": True}, "inductor").merges

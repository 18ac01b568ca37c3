"""Frames folded into the batch or into the tokens: merged where the law allows, and right."""

from __future__ import annotations

import pytest
import torch

from pitome_fx.options import Options
from pitome_fx.passes.reporting import make_report
from tests.properties.trial import LIMIT, Flat, every_merge_pays, rewritten, tried, worst_error
from tests.zoo.check import Beside, verdict
from tests.zoo.frames import CASES, alternating, case

MERGE = {"ratio": 0.7, "min_tokens": 4}


def flat(name: str) -> Flat:
    torch.manual_seed(0)
    built = CASES[name][0]().to(torch.float64)
    return Flat(built.model, built.args)


@pytest.mark.parametrize("name", CASES)
def test_rewritten_is_simulated(name: str) -> None:
    program = flat(name)
    trial = tried(rewritten(program, {**MERGE, "pays": True}), program)
    assert verdict(trial.report) == CASES[name][1]
    assert worst_error(trial.output, trial.simulated) <= LIMIT


@pytest.mark.parametrize("name", ["alternating", "one-table", "padded"])
def test_frames_stay_merged_through_global_attention(name: str) -> None:
    """Its keys are the merged tokens of all frames; nothing is unmerged before the end."""
    outcome = rewritten(flat(name), {**MERGE, "pays": True})
    assert outcome.rewritten is not None
    assert {event.node.op for event in outcome.rewritten.lifts} == {"output"}
    assert [merge.before for merge in outcome.rewritten.merges] == [12, 9]


@pytest.mark.parametrize("name", ["alternating", "padded"])
def test_groups_that_count_as_one_token(name: str) -> None:
    program = flat(name)
    outcome = rewritten(program, {**MERGE, "pays": True, "proportional": False})
    trial = tried(outcome, program)
    assert trial.merges == 2
    assert worst_error(trial.output, trial.simulated) <= LIMIT


def test_equal_tokens_merge_without_changing_anything() -> None:
    """Every token comes twice in its frame, and merges with its like: a witness but the oracle."""
    torch.manual_seed(0)
    built = case(alternating).to(torch.float64)
    twice = (built.args[0][:, :, :6].repeat(1, 1, 2, 1),)
    program = Flat(built.model, twice)
    options = {"blocks": [0], "r": 4, "min_tokens": 4, "pays": True}
    trial = tried(rewritten(program, options), program)
    assert trial.merges == 1
    assert worst_error(trial.output, trial.dense) <= LIMIT


def test_numbers_of_items_and_frames_may_change() -> None:
    torch.manual_seed(0)
    model = case(alternating).to(torch.float64).model
    beside = Beside(Options.parse(MERGE))
    merged = torch.compile(model, backend=beside, dynamic=True)
    with torch.no_grad(), every_merge_pays(True):
        for batch, frames in ((2, 3), (4, 5)):
            x = torch.randn(batch, frames, 12, 24, dtype=torch.float64)
            assert merged(x).shape == model(x).shape
    assert len(beside.outcomes) == 1 and make_report(beside.outcomes).merged == 2
    assert beside.error <= LIMIT

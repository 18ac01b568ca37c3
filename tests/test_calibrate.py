"""calibrate: a schedule within the budget that changes a user's outputs least."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pitome_fx
from pitome_fx import Options, OptionsError, RefusedError, calibrate
from pitome_fx.calibration.calibrate import squared_change
from pitome_fx.calibration.spend import Sensitivity, spend
from tests.support.blocks import by_hand
from tests.support.models import Case


class Sensitive(nn.Module):
    """Tokens whose first block tells them apart; how far it does is given."""

    def __init__(self) -> None:
        super().__init__()
        self.body = by_hand(pool="none", depth=3).model

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.body(x)
        return {"tokens": y, "mean": y.mean(1)}


@pytest.fixture(scope="module")
def case() -> Case:
    torch.manual_seed(0)
    return Case(Sensitive().eval(), (torch.randn(4, 32, 24),))


def change(case: Case, options: Any) -> float:
    """Of the outputs, squared and relative."""
    with torch.no_grad():
        merged = pitome_fx.transform(case.model, case.args, **options)
        return float(squared_change(merged(*case.args), case.model(*case.args)))


def test_it_meets_the_budget_and_is_no_worse_than_the_same_amount_everywhere(case: Case) -> None:
    found = calibrate(case.model, case.args, flops=0.8, progress=False, min_tokens=4)
    given = {"algorithm": found.algorithm, "metric": found.metric, "min_tokens": 4}
    own = {"schedule": found.schedule} if found.schedule else {"flops": found.flops}
    report = pitome_fx.explain(case.model, case.args, **given, **own)
    assert report.flops_after <= 0.815 * report.flops_before
    uniform = change(case, {**given, "flops": 0.8})
    assert change(case, {**given, **own}) <= uniform * (1 + 1e-5)


def test_it_is_deterministic_and_can_be_kept_as_json(case: Case) -> None:
    how = {"flops": 0.8, "progress": False, "algorithm": "tome", "min_tokens": 4}
    found = calibrate(case.model, [case.args, case.args], **how)
    assert found == calibrate(case.model, [case.args, case.args], **how)
    assert Options.from_json(found.to_json()) == found
    assert found.algorithm == "tome" and found.min_tokens == 4


def test_torch_compile_takes_what_it_returns(case: Case) -> None:
    found = calibrate(case.model, case.args, flops=0.8, progress=False, lowering="eager")
    compiled = torch.compile(case.model, backend="pitome", options=found)
    with torch.no_grad():
        assert compiled(*case.args)["tokens"].shape == (4, 33, 5)


def test_the_distance_is_the_users(case: Case) -> None:
    seen: list[tuple[int, ...]] = []

    def distance(found: Any, dense: Any) -> Tensor:
        seen.append(found["mean"].shape)
        return (found["mean"] - dense["mean"]).square().mean()

    calibrate(case.model, case.args, flops=0.8, progress=False, distance=distance, algorithm="tome")
    assert set(seen) == {(4, 5)}


def test_where_the_schedule_is_worse_the_same_amount_everywhere_is_returned(case: Case) -> None:
    """The first thing measured is the same amount in every block, the last the schedule."""
    changes = iter([0.0, *[1.0] * 99])
    found = calibrate(
        case.model,
        case.args,
        flops=0.8,
        progress=False,
        distance=lambda found, dense: next(changes),
        algorithm="tome",
    )
    assert found.flops == 0.8 and found.schedule is None


@pytest.mark.parametrize("amount", [{"ratio": 0.9}, {"r": 2}, {"schedule": [0.9]}, {"blocks": [0]}])
def test_the_amount_is_what_it_finds(case: Case, amount: dict[str, Any]) -> None:
    with pytest.raises(OptionsError, match="leave it out"):
        calibrate(case.model, case.args, progress=False, **amount)


@pytest.mark.filterwarnings("ignore::pitome_fx.PitomeWarning")
def test_a_model_that_merges_nothing_is_refused() -> None:
    with pytest.raises(RefusedError, match="no attention was found"):
        calibrate(nn.Linear(4, 4), (torch.randn(2, 4),), progress=False)


def test_no_inputs_are_an_error(case: Case) -> None:
    with pytest.raises(ValueError, match="needs inputs"):
        calibrate(case.model, [], progress=False)


def test_the_budget_goes_where_it_is_cheapest() -> None:
    """Of two blocks that save alike the one that matters less removes more, up to its bound."""
    dear, cheap = Sensitivity(10.0, 2.0), Sensitivity(0.1, 2.0)
    first, second = spend([dear, cheap], lambda r: sum(r) / 2, 0.8, 0.5)
    assert second < first and (first + second) / 2 <= 0.8
    assert spend([dear, cheap], lambda r: sum(r) / 2, 0.1, 0.5) == (0.5, 0.5)


def test_a_first_step_may_cost_more_than_it_saves() -> None:
    """Matching takes a twentieth however little it removes; so blocks merge much, or not at all."""

    def cost(ratios: Any) -> float:
        return sum(r + (0.05 if r < 1 else 0) for r in ratios) / 2

    first, second = spend([Sensitivity(1.0, 2.0), Sensitivity(1.0, 2.0)], cost, 0.9, 0.5)
    assert cost((first, second)) <= 0.9
    assert all(ratio == 1 or ratio < 0.95 for ratio in (first, second))


def test_a_sensitivity_goes_through_what_was_measured() -> None:
    own = Sensitivity.fit((0.1, 1e-4), (0.3, 1e-3))
    assert own.change(0.3) == pytest.approx(1e-3) and own.change(0.1) == pytest.approx(1e-4)
    assert own.change(0) == 0

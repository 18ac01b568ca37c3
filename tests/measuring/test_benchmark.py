"""benchmark: dense and merged side by side; what is said, not how fast this machine is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pitome_fx
from pitome_fx import OptionsError
from pitome_fx.errors import UsageError
from pitome_fx.measuring.memory import peak_memory
from tests.support.blocks import by_hand
from tests.support.models import bert

EAGER = {"lowering": "eager"}
ONCE: dict[str, Any] = {"rounds": 1, "progress": False}


def test_every_set_of_options_is_a_row(tmp_path: Path) -> None:
    case = by_hand()
    sets = [{"ratio": 0.8, **EAGER}, {"ratio": 0.6, "min_tokens": 4, **EAGER}]
    found = pitome_fx.benchmark(case.model, case.args, sets, **ONCE)
    dense, first, second = found.runs
    assert dense is found.dense and dense.name == "dense"
    assert dense.speedup.median == 1 and found.efficiency(dense) == 1
    assert dense.flops > first.flops > second.flops
    assert dense.options == {"ratio": 1.0, **EAGER}
    assert dense.merged == 0 and first.merged == first.sites == second.sites > 0
    assert all(run.first_call > 0 and run.seconds.median > 0 for run in found.runs)
    ratio = first.speedup.median * first.flops / dense.flops
    assert found.efficiency(first) == pytest.approx(ratio)
    for word in ("ratio=0.6", "min_tokens=4", "dense", str(torch.__version__)):
        assert word in str(found)
    rows = json.loads(found.to_json())["runs"]
    assert [row["name"] for row in rows] == [run.name for run in found.runs]
    assert rows[1]["options"] == sets[0] and rows[1]["efficiency"] == pytest.approx(ratio)
    found.save_plot(tmp_path / "found.png")
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def test_flops_are_those_of_the_report() -> None:
    case = by_hand()
    found = pitome_fx.benchmark(case.model, case.args[0], {"ratio": 0.8, **EAGER}, **ONCE)
    report = pitome_fx.explain(case.model, case.args, ratio=0.8)
    assert [run.flops for run in found.runs] == [report.flops_before, report.flops_after]


def test_named_inputs() -> None:
    case = bert()
    found = pitome_fx.benchmark(case.model, case.kwargs, EAGER, **ONCE)
    assert found.runs[1].merged


def test_where_nothing_merges_the_row_says_why() -> None:
    case = by_hand()
    with pytest.warns(pitome_fx.PitomeWarning, match="min_tokens"):
        found = pitome_fx.benchmark(case.model, case.args, {"min_tokens": 999, **EAGER}, **ONCE)
    assert found.runs[1].merged == 0
    assert "min_tokens is 999" in str(found)


@pytest.mark.slow
def test_with_empty_caches_every_first_call_compiles() -> None:
    case = by_hand()
    pitome_fx.benchmark(case.model, case.args, {"ratio": 0.8}, **ONCE)
    warm, cold = (
        pitome_fx.benchmark(case.model, case.args, {"ratio": 0.8}, cold=cold, **ONCE)
        for cold in (False, True)
    )
    for run, other in zip(warm.runs, cold.runs, strict=True):
        assert run.first_call < other.first_call, "a compile takes longer than finding it done"
    assert "caches at the first call: empty" in str(cold)


@pytest.mark.parametrize(
    ("inputs", "options", "said"),
    [
        (3, {}, "inputs of type int"),
        ((3, "x"), {}, "hold no tensor"),
        ("text", {}, "inputs of type str"),
        (torch.ones(2, 25, 24), [], "at least one set"),
        (torch.ones(2, 25, 24), [{"lowering": "eager"}, {}], "benchmark each by itself"),
    ],
)
def test_wrong_input_is_said_in_a_sentence(inputs: Any, options: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        pitome_fx.benchmark(by_hand().model, inputs, options, **ONCE)


def test_wrong_options_and_rounds() -> None:
    case = by_hand()
    with pytest.raises(OptionsError, match="ratoi"):
        pitome_fx.benchmark(case.model, case.args, {"ratoi": 0.8}, **ONCE)
    with pytest.raises(UsageError, match="rounds=0"):
        pitome_fx.benchmark(case.model, case.args, rounds=0)


def test_errors_of_the_model_are_its_own() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        pitome_fx.benchmark(nn.Linear(3, 4), torch.ones(2, 5), EAGER, **ONCE)


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events at the end of each cycle")
def test_peak_memory_counts_what_is_held_at_once() -> None:
    def call() -> torch.Tensor:
        first = torch.ones(1000, 1000)
        second = first + 1
        del first
        third = second * 2
        return third[:10].clone()

    peak = peak_memory(call, torch.device("cpu"))
    assert peak is not None and 8_000_000 <= peak < 8_200_000


def test_peak_memory_of_other_devices_is_not_known() -> None:
    assert peak_memory(lambda: None, torch.device("meta")) is None

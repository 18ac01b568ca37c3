"""Amounts in time: solved for with what was measured, of which the table on disk is the witness."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pitome_fx
from pitome_fx import PitomeWarning
from pitome_fx.calibration.calibrate import squared_change
from pitome_fx.passes.plan.table import DeviceTable
from tests.support.models import Case, timm_vit
from tests.support.oracle import (
    assert_keeps_the_law,
    counts,
    explained,
    transformed,
)

Seconds = Callable[[str], float]
AsIf = Callable[[Seconds], None]


@pytest.fixture(autouse=True)
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the tables."""
    monkeypatch.setenv("PITOME_FX_CACHE", str(tmp_path))
    return tmp_path


def vit() -> Case:
    return timm_vit(tokens=196, depth=6, embed_dim=48)


def written(folder: Path) -> Path:
    (file,) = folder.glob("*.json")
    return file


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What is measured of the model, as Dynamo and as torch.export trace it."""
    folder = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PITOME_FX_CACHE", str(folder))
        explained(vit(), speedup=1.2)
        transformed(vit(), speedup=1.2, strict=False)
        return [*json.loads(written(folder).read_text())]


@pytest.fixture
def as_if(table: Path, keys: list[str]) -> AsIf:
    """Puts other times in the place of those that were measured."""

    def write(seconds: Seconds) -> None:
        file = DeviceTable(torch.device("cpu")).path
        file.write_text(json.dumps({key: seconds(key) for key in keys}))

    return write


def by_elements(key: str) -> float:
    """A nanosecond for each element of the first operand; matching is free."""
    shape = re.search(r"\[([\d, ]+)\]", key)
    if key.startswith("match") or shape is None:
        return 0.0
    return 1e-9 * torch.Size(map(int, shape[1].split(","))).numel()


def test_what_is_measured_is_kept(table: Path) -> None:
    first = explained(vit(), speedup=1.5)
    before = written(table).read_text()
    again = explained(vit(), speedup=1.5)
    assert written(table).read_text() == before
    assert counts(again) == counts(first)
    assert again.seconds_before == first.seconds_before
    seconds = json.loads(before)
    assert all(value is None or 0 < value < 10 for value in seconds.values())
    for op in ("aten.linear.default", "aten.scaled_dot_product_attention.default", "match"):
        assert any(key.startswith(op) for key in seconds)


@pytest.mark.parametrize("speedup", [1.2, 1.5, 2.0])
def test_a_speedup_is_solved_for(as_if: AsIf, speedup: float) -> None:
    as_if(by_elements)
    report = explained(vit(), speedup=speedup)
    assert report.merged and report.seconds_before and report.seconds_after
    expected = report.seconds_before / report.seconds_after
    assert speedup <= expected < 1.03 * speedup
    assert f"({expected:.2f} times faster)" in str(report)


def test_a_latency_is_solved_for(as_if: AsIf) -> None:
    as_if(by_elements)
    dense = explained(vit(), speedup=1.2).seconds_before
    assert dense
    report = explained(vit(), latency=0.7 * dense)
    assert report.seconds_after
    assert 0.97 * 0.7 * dense < report.seconds_after <= 0.7 * dense
    assert counts(report) == counts(explained(vit(), speedup=1 / 0.7))


def test_a_latency_that_the_dense_model_has_merges_nothing() -> None:
    report = explained(vit(), latency=1e3)
    assert report.merged == 0
    assert all("is reached without merging" in (b.reason or "") for b in report.blocks)


def test_what_does_not_pay_on_the_device_does_not_merge(as_if: AsIf) -> None:
    as_if(lambda key: 1.0 if key.startswith("match") else by_elements(key))
    with pytest.warns(PitomeWarning, match="not profitable on this device"):
        dense = pitome_fx.transform(vit().model, vit().args, speedup=1.2)
    assert not any("pitome" in str(node.target) for node in dense.graph.nodes)


def test_of_the_merges_those_that_pay_are_made(as_if: AsIf) -> None:
    whole = by_elements("float32[2, 197, 48]")

    def seconds(key: str) -> float:
        # As much as four of the ops that run on tokens save of a tenth of them: late ones lose.
        return whole if key.startswith("match") else by_elements(key)

    as_if(seconds)
    merged = [block.merged for block in explained(vit(), speedup=1.2).blocks]
    assert any(merged) and not all(merged)
    assert merged == sorted(merged, reverse=True), "the earlier a merge, the more it saves"


def test_what_is_out_of_reach_is_said(as_if: AsIf) -> None:
    as_if(by_elements)
    report = explained(vit(), speedup=50)
    assert any("speedup=50.0 is out of reach on this device" in note for note in report.notes)


def test_the_law_holds_and_random_numbers_are_left_alone(as_if: AsIf) -> None:
    case = vit()
    torch.manual_seed(1)
    expected = torch.rand(3)
    as_if(by_elements)
    torch.manual_seed(1)
    assert_keeps_the_law(case, speedup=1.5)
    torch.manual_seed(1)
    explained(case, speedup=1.7)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("damaged", ["", "[]", '{"a": "1", "b": NaN, "c": -1}'])
def test_a_damaged_table_is_measured_anew(table: Path, damaged: str) -> None:
    explained(vit(), speedup=1.2)
    written(table).write_text(damaged)
    assert explained(vit(), speedup=1.2).seconds_before
    kept = json.loads(written(table).read_text())
    assert kept and not kept.keys() & {"a", "b", "c"}


class Broken(nn.Module):
    """Two models with a graph break between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = vit().model, vit().model

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        torch._dynamo.graph_break()
        return y + self.second(x)


def test_a_latency_is_asked_of_each_graph_and_it_is_said() -> None:
    with torch.no_grad():
        report = pitome_fx.explain(Broken(), vit().args, latency=1e-6)
    assert "latency=1e-06 is asked of each of the 2 graphs" in str(report)


def test_it_compiles(as_if: AsIf) -> None:
    as_if(by_elements)
    case = vit()
    how = {"speedup": 1.5, "lowering": "eager", "strict": True}
    fast = torch.compile(case.model, backend="pitome", options=how)
    slow = pitome_fx.transform(case.model, case.args, speedup=1.5)
    torch.testing.assert_close(fast(*case.args), slow(*case.args))


def test_calibrate_spends_a_budget_of_time(as_if: AsIf) -> None:
    as_if(by_elements)
    case = vit()
    how = {"algorithm": "tome", "progress": False}
    found = pitome_fx.calibrate(case.model, case.args, speedup=1.3, **how)
    assert found.schedule is not None or found.speedup == 1.3
    merged = transformed(case, **found.changed())
    uniform = transformed(case, algorithm="tome", speedup=1.3)
    with torch.no_grad():
        dense, ours, alike = (run(*case.args) for run in (case.model, merged, uniform))
    assert squared_change(ours, dense) <= squared_change(alike, dense) * (1 + 1e-5)


def test_the_page_says_what_is_expected(as_if: AsIf, tmp_path: Path) -> None:
    as_if(by_elements)
    case = vit()
    page = tmp_path / "report.html"
    report = pitome_fx.explain(case.model, case.args, speedup=1.5, html=page)
    assert report.seconds_before and report.seconds_after
    text = page.read_text()
    assert f"{report.seconds_before * 1e3:.4g} → {report.seconds_after * 1e3:.4g}" in text

"""Merging switched off: what is compiled, transformed and explained is the dense model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters

import pitome_fx
from pitome_fx import OptionsError, RefusedError
from tests.support.blocks import by_hand
from tests.support.compiled import compiled, has_pitome_nodes, recording, told
from tests.support.models import Case
from tests.support.oracle import assert_close, assert_equal, expected

OPTIONS = {"ratio": 0.75}
OFF = "merging is switched off"


@pytest.fixture
def case() -> Case:
    return by_hand(depth=2).to(torch.float64)


def merged(case: Case) -> Any:
    """What the case's model yields when it merges."""
    return expected(case, **OPTIONS)


class TestCompiled:
    @pytest.mark.parametrize("first", ["merging", "dense"])
    @pytest.mark.parametrize("dynamic", [None, True])
    def test_dense_inside_and_merging_outside(
        self, case: Case, dynamic: bool | None, first: str
    ) -> None:
        """Whichever was compiled first, and each is compiled once."""
        options = {**OPTIONS, "lowering": "recording", "strict": True}
        with recording() as graphs, torch.no_grad():
            model = torch.compile(case.model, backend="pitome", options=options, dynamic=dynamic)
            if first == "merging":
                model(*case.args)
            for _ in range(2):
                with pitome_fx.disabled():
                    inside = model(*case.args)
                outside = model(*case.args)
        assert_equal(inside, case.model(*case.args))
        assert_close(outside, merged(case), 1e-9)
        order = [True, False] if first == "merging" else [False, True]
        assert [has_pitome_nodes(graph) for graph in graphs] == order

    def test_no_warning_and_no_verdict_is_about_it(self, case: Case) -> None:
        with told() as messages, torch.no_grad(), pitome_fx.disabled():
            compiled(case.model, **OPTIONS)(*case.args)
        assert messages == []

    def test_lowered_as_with_ratio_one(self) -> None:
        """By Inductor: the same kernels, of the same entry of its cache."""
        case = by_hand(depth=1, pool="none")
        with torch.no_grad():
            wanted = compiled(case.model, ratio=1.0, lowering="inductor")(*case.args)
            torch._dynamo.reset()
            model = compiled(case.model, lowering="inductor", **OPTIONS)
            merges = model(*case.args)
            counters.clear()
            with pitome_fx.disabled():
                dense = model(*case.args)
        assert torch.equal(dense, wanted) and not torch.equal(dense, merges)
        assert counters["inductor"]["fxgraph_cache_miss"] == 0
        assert counters["aot_autograd"]["autograd_cache_hit"] == 1

    def test_a_backward_pass_is_that_of_its_forward_pass(self, case: Case) -> None:
        def gradient(model: Any) -> Tensor:
            case.model.zero_grad()
            model(*case.args).square().sum().backward()
            return case.model.cls.grad.clone()

        dense = gradient(case.model)
        model = compiled(case.model, **OPTIONS, lowering="aot_eager")
        merges = gradient(model)
        assert not torch.allclose(merges, dense)
        with pitome_fx.disabled():
            assert_close(gradient(model), dense, 1e-12)
        case.model.zero_grad()
        output = model(*case.args)
        with pitome_fx.disabled():
            output.square().sum().backward()
        assert_close(case.model.cls.grad, merges, 1e-12)

    def test_only_the_part_of_a_compiled_function_that_is_inside(self, case: Case) -> None:
        def both(x: Tensor) -> tuple[Tensor, Tensor]:
            with pitome_fx.disabled():
                dense = case.model(x)
            return dense, case.model(x)

        with torch.no_grad():
            dense, merges = compiled(both, **OPTIONS)(*case.args)
        assert_equal(dense, case.model(*case.args))
        assert_close(merges, merged(case), 1e-9)

    def test_options_are_checked_all_the_same(self, case: Case) -> None:
        with pitome_fx.disabled(), pytest.raises(BackendCompilerFailed, match="unknown option"):
            compiled(case.model, ratios=0.75)(*case.args)


class TestWhere:
    """Whom it concerns: the thread or task that is inside, until it leaves."""

    def test_other_threads_go_on_merging(self, case: Case) -> None:
        model = compiled(case.model, **OPTIONS)
        found: dict[str, Tensor] = {}
        inside, done = threading.Event(), threading.Event()

        def run_dense() -> None:
            with pitome_fx.disabled(), torch.no_grad():
                found["dense"] = model(*case.args)
                inside.set()
                assert done.wait(60)

        thread = threading.Thread(target=run_dense)
        with torch.no_grad():
            model(*case.args)
            thread.start()
            assert inside.wait(60)
            found["merging"] = model(*case.args)
            done.set()
            thread.join()
        assert_equal(found["dense"], case.model(*case.args))
        assert_close(found["merging"], merged(case), 1e-9)

    def test_other_tasks_go_on_merging(self, case: Case) -> None:
        model = compiled(case.model, **OPTIONS)

        async def run_dense() -> Any:
            with pitome_fx.disabled():
                await asyncio.sleep(0.01)
                return model(*case.args)

        async def run_merging() -> Any:
            return model(*case.args)

        async def both() -> Any:
            return await asyncio.gather(run_dense(), run_merging())

        with torch.no_grad():
            dense, merges = asyncio.run(both())
        assert_equal(dense, case.model(*case.args))
        assert_close(merges, merged(case), 1e-9)

    def test_until_the_outermost_is_left(self, case: Case) -> None:
        def dense() -> bool:
            return torch.equal(model(*case.args), case.model(*case.args))

        model = compiled(case.model, **OPTIONS)
        switch = pitome_fx.disabled()
        with torch.no_grad():
            with pytest.raises(KeyError), switch:
                with switch:
                    assert dense()
                assert dense()
                raise KeyError
            assert not dense()

    @pytest.mark.parametrize("decorate", [pitome_fx.disabled, pitome_fx.disabled()])
    def test_decorates_functions_and_generators(self, case: Case, decorate: Any) -> None:
        @decorate
        def call() -> Tensor:
            return model(*case.args)

        @decorate
        def generate() -> Iterator[Tensor]:
            yield model(*case.args)
            yield model(*case.args)

        model = compiled(case.model, **OPTIONS)
        with torch.no_grad():
            wanted = case.model(*case.args)
            assert_equal(call(), wanted)
            for output in generate():
                assert_equal(output, wanted)
                assert not torch.equal(model(*case.args), wanted), "between two steps it merges"

    def test_refuses_to_decorate_a_coroutine(self) -> None:
        async def serve() -> None: ...

        with pytest.raises(TypeError, match=r"coroutine serve: write 'with .* inside it"):
            pitome_fx.disabled()(serve)


class TestEnvironment:
    @pytest.mark.parametrize("value", ["off", "OFF"])
    def test_off_for_everything(
        self, case: Case, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.setenv("PITOME_FX", value)
        with torch.no_grad():
            wanted = case.model(*case.args)
            assert_equal(compiled(case.model, **OPTIONS)(*case.args), wanted)
            assert_equal(pitome_fx.transform(case.model, case.args, **OPTIONS)(*case.args), wanted)
        report = pitome_fx.explain(case.model, case.args, **OPTIONS)
        assert report.merged == 0 and f"{OFF} (PITOME_FX=off)" in report.notes[0]

    @pytest.mark.parametrize("value", ["", "on"])
    def test_on_is_as_without(
        self, case: Case, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.setenv("PITOME_FX", value)
        with torch.no_grad():
            assert_close(compiled(case.model, **OPTIONS)(*case.args), merged(case), 1e-9)

    def test_another_value_is_one_sentence(
        self, case: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PITOME_FX", "flase")
        sentence = r"PITOME_FX='flase' in the environment is not allowed: expected 'off'"
        with pytest.raises(OptionsError, match=sentence):
            pitome_fx.transform(case.model, case.args, **OPTIONS)
        with pytest.raises(OptionsError, match=sentence):
            pitome_fx.explain(case.model, case.args, **OPTIONS)
        with pytest.raises(BackendCompilerFailed, match=sentence):
            compiled(case.model, **OPTIONS)(*case.args)


class TestFrontEnds:
    def test_transform_returns_the_dense_program(self, case: Case) -> None:
        exported = torch.export.export(case.model, case.args)
        with pitome_fx.disabled(), told() as messages:
            assert pitome_fx.transform(exported, strict=True, **OPTIONS) is exported
            graph = pitome_fx.transform(case.model, case.args, **OPTIONS)
        assert messages == [] and not has_pitome_nodes(graph)
        assert_equal(graph(*case.args), case.model(*case.args))

    def test_explain_says_so(self, case: Case) -> None:
        with pitome_fx.disabled():
            report = pitome_fx.explain(case.model, case.args, flops=0.6)
        assert [block.merged for block in report.blocks] == [False, False]
        assert report.flops_after == report.flops_before
        assert f"Note: the model runs dense: {OFF} (pitome_fx.disabled())" in str(report)
        assert pitome_fx.explain(case.model, case.args, flops=0.6).merged == 2

    def test_calibrate_refuses(self, case: Case) -> None:
        with pitome_fx.disabled(), pytest.raises(RefusedError, match=f"nothing to measure: {OFF}"):
            pitome_fx.calibrate(case.model, case.args, progress=False)


def test_a_model_that_never_merges_depends_on_no_switch() -> None:
    """With ``ratio=1.0`` nothing is compiled anew."""
    linear, x = nn.Linear(3, 3), torch.randn(2, 3)
    with recording() as graphs, torch.no_grad():
        model = torch.compile(
            linear, backend="pitome", options={"ratio": 1.0, "lowering": "recording"}
        )
        model(x)
        with pitome_fx.disabled():
            model(x)
    assert len(graphs) == 1

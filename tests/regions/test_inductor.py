"""Under Inductor: what repeats is compiled once, and computes what it does in eager mode."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from pitome_fx.backends import kinds
from pitome_fx.passes.regions.cutting import Cut
from tests.support.blocks import by_hand
from tests.support.models import Case
from tests.support.regions import NAME, by_regions, close, run, said


class TestInductor:
    """The default lowering."""

    def test_alike_regions_are_compiled_once(self, caplog: pytest.LogCaptureFixture) -> None:
        case = by_hand(pool="cls", depth=6, tokens=64).to(torch.float64)
        with torch.no_grad(), caplog.at_level(logging.INFO, "pitome_fx"):
            parts = run(case, "inductor", ratio=0.9)
            calls, different, compiled = said(caplog)
            assert compiled == different < calls
            again = run(case, "inductor", ratio=0.85)
            assert said(caplog) == (calls, different, 0)
            close(parts, run(case, "eager", ratio=0.9))
            close(again, run(case, "eager", ratio=0.85))

    def test_another_depth_compiles_little(self, caplog: pytest.LogCaptureFixture) -> None:
        with torch.no_grad(), caplog.at_level(logging.INFO, "pitome_fx"), by_regions() as cuts:
            for depth in (4, 6):
                run(by_hand(pool="cls", depth=depth, tokens=64), NAME, ratio=0.9)
        assert said(caplog)[2] == 1, "the head, which reads a token out of fewer ones"
        assert len(cuts) == 2

    def test_training_is_the_same(self) -> None:
        case = by_hand(pool="mean", depth=3).to(torch.float64)
        found = []
        for lowering in ("inductor", "eager"):
            case.model.zero_grad()
            output = run(case, lowering)
            output.square().sum().backward()
            found.append((output, *(p.grad.clone() for p in case.model.parameters())))
        for a, b in zip(*found, strict=True):
            close(a, b)

    def test_dropout_and_buffers_are_those_of_the_whole(self) -> None:
        """With PyTorch's own random numbers, which fall in the same order."""

        class Trained(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = by_hand(pool="none", depth=3).model
                self.norm = nn.BatchNorm1d(5)
                self.drop = nn.Dropout(0.3)

            def forward(self, x: Tensor) -> Tensor:
                return self.norm(self.drop(self.body(self.drop(x))).mean(1))

        found = []
        for lowering, own in (("inductor", {"fallback_random": True}), ("eager", {})):
            torch.manual_seed(0)
            model = Trained().double().train()
            x = torch.randn(4, 25, 24, dtype=torch.float64)
            torch.manual_seed(1)
            output = run(Case(model, (x,)), lowering, lowering_options=own)
            output.square().sum().backward()
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            found.append((output, *model.buffers(), *grads))
        assert int(found[0][3]) == 1
        for a, b in zip(*found, strict=True):
            close(a.double(), b.double())

    def test_autocast_around_and_inside(self) -> None:
        class Mixed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = by_hand(pool="none", depth=2).model
                self.between = nn.Linear(5, 24)
                self.second = by_hand(pool="none", depth=2).model

            def forward(self, x: Tensor) -> Tensor:
                x = self.between(self.first(x))
                with torch.autocast("cpu", enabled=False):
                    return self.second(x.float())

        case = Case(Mixed().eval(), (torch.randn(2, 25, 24),))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), by_regions() as cuts:
            whole, parts = (run(case, lowering) for lowering in ("eager", NAME))
        assert isinstance(cuts[0], Cut) and len(cuts[0].regions) > 10
        assert torch.equal(whole, parts) and whole.dtype == parts.dtype

    def test_another_setting_compiles_anew(self, caplog: pytest.LogCaptureFixture) -> None:
        case = by_hand(pool="cls", depth=3)
        with caplog.at_level(logging.INFO, "pitome_fx"), by_regions():
            with torch.no_grad():
                run(case, NAME)
                _, different, _ = said(caplog)
                run(case, NAME)
                assert said(caplog)[2] == 0
                run(case, NAME, lowering_options={"epilogue_fusion": False})
                assert said(caplog)[2] == different
            run(case, NAME)  # with gradients
            assert said(caplog)[2] == different

    def test_ops_that_take_no_symbols_are_compiled_for_their_lengths(self) -> None:
        class Resized(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = by_hand(pool="none", depth=3).model

            def forward(self, x: Tensor) -> Tensor:
                y = self.body(x).transpose(1, 2).unsqueeze(2)
                for width in (31, 36, 40):
                    y = nn.functional.interpolate(y, (2, width), mode="bilinear").tanh()
                    y = y @ y.mT @ y
                return y

        case = Case(Resized().eval(), (torch.randn(2, 25, 24),)).to(torch.float64)
        with torch.no_grad(), by_regions() as cuts:
            whole, parts = run(case, "eager"), run(case, NAME)
        assert isinstance(cuts[0], Cut) and torch.equal(whole, parts)


class TestCaches:
    """Regions hit the compile caches as graphs do."""

    def test_another_process_compiles_nothing(self) -> None:
        """Here: a process that forgot."""
        case = by_hand(pool="cls", depth=4).to(torch.float64)
        with torch.no_grad(), torch._inductor.utils.fresh_cache():
            first = run(case, "inductor")
            kinds.KINDS.clear()
            counters.clear()
            second = run(case, "inductor")
            assert counters["inductor"]["fxgraph_cache_miss"] == 0
            assert counters["inductor"]["fxgraph_cache_hit"] > 2
        assert torch.equal(first, second)

    def test_what_a_cached_graph_assumes_is_known(self) -> None:
        """A kind read from the cache is not taken for lengths that its code does not fit."""

        case = by_hand(pool="cls", depth=4).to(torch.float64)
        how = {"algorithm": "pitome-vision"}  # asks in which half of the blocks it is
        with torch.no_grad(), torch._inductor.utils.fresh_cache():
            for _ in range(2):
                kinds.KINDS.clear()
                close(run(case, "inductor", **how), run(case, "eager", **how))

"""What is compiled as a whole, and who is told."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

from pitome_fx.backends import kinds
from tests.support.blocks import by_hand
from tests.support.compiled import told
from tests.support.models import Case
from tests.support.regions import NAME, by_regions, close, run


class TestWhole:
    """What is compiled as a whole, and who is told."""

    def test_a_symbolic_batch(self, caplog: pytest.LogCaptureFixture) -> None:
        case = by_hand(pool="cls", depth=2).to(torch.float64)
        model = torch.compile(case.model, backend="pitome", options={"ratio": 0.75}, dynamic=True)
        with torch.no_grad(), caplog.at_level(logging.INFO, "pitome_fx"):
            output = model(*case.args)
        assert "compiled as a whole: its sizes are symbolic" in caplog.text
        with torch.no_grad():
            close(output, run(case, "eager"))

    def test_modes_that_see_the_whole(self, caplog: pytest.LogCaptureFixture) -> None:
        case = by_hand(pool="cls", depth=2)
        with torch.no_grad(), caplog.at_level(logging.INFO, "pitome_fx"):
            run(case, "inductor", lowering_options={"mode": "reduce-overhead"})
        assert "compiled as a whole: CUDA graphs" in caplog.text

    def test_true_says_why_not(self) -> None:
        case = by_hand(pool="cls", depth=1)
        with torch.no_grad(), told() as messages:
            run(case, "inductor", regions=True)
        assert any("no two parts of it are alike" in text for text in messages)

    def test_false_is_heeded(self, caplog: pytest.LogCaptureFixture) -> None:
        with torch.no_grad(), caplog.at_level(logging.INFO, "pitome_fx"):
            run(by_hand(pool="cls", depth=2), "inductor", regions=False)
        assert "regions of" not in caplog.text and not kinds.KINDS

    def test_other_lowerings_have_none(self) -> None:
        with pytest.raises(BackendCompilerFailed, match="regions=True is for lowering='inductor'"):
            run(by_hand(), "eager", regions=True)

    def test_writes_to_what_is_shared(self) -> None:
        class Writing(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = by_hand(pool="none", depth=4).model
                self.register_buffer("seen", torch.zeros(2, 5))

            def forward(self, x: Tensor) -> Tensor:
                first, second = self.seen[0], self.seen[1]
                y = self.body(x)
                first.add_(y.mean((0, 1)))
                second.add_(first)
                return y + second

        models = [Writing().eval(), Writing().eval()]
        models[1].load_state_dict(models[0].state_dict())
        x = torch.randn(2, 25, 24)
        with torch.no_grad(), by_regions() as cuts:
            whole = run(Case(models[0], (x,)), "eager")
            parts = run(Case(models[1], (x,)), NAME)
        assert cuts == ["it writes to a tensor of which it has several views"]
        assert torch.equal(whole, parts) and torch.equal(*(m.seen for m in models))

"""Law (f) on small programs: gradients are those of differences."""

from __future__ import annotations

import pytest
from torch import Tensor
from torch.autograd import gradcheck

from tests.properties.description import Attention, Mlp, Program, Residual
from tests.properties.gradients import weighed
from tests.properties.trial import run

SMALL = {
    "sdpa": Program((Residual(Attention()), Residual(Mlp())), tokens=6, prefix=1, readout="mean"),
    "padded": Program(
        (Residual(Attention("matmul", mask="min")), Residual(Mlp("swiglu"))),
        batch=2,
        tokens=6,
        hidden=(2, 0),
    ),
    "learned-bias": Program(
        (Residual(Attention(mask="learned"), order="post"), Residual(Mlp())), tokens=6
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_f_gradients_are_those_of_differences(name: str) -> None:
    trial = run(SMALL[name], {"min_tokens": 2, "ratio": 0.75, "pays": True})
    rewritten = trial.outcome.rewritten
    assert rewritten is not None and rewritten.merges
    values = trial.flat.fresh()
    place = len(trial.flat.state)

    def loss(x: Tensor) -> Tensor:
        output = rewritten.graph(*values[:place], x, *values[place + 1 :])
        found = weighed(output)
        assert found is not None
        return found

    x = values[place].requires_grad_()
    for value in values[:place]:
        value.requires_grad_(False)
    assert gradcheck(loss, (x,))

"""Half types: nothing overflows that does not in the dense model, and outputs keep their dtype."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.support.blocks import by_hand
from tests.support.compiled import compiled
from tests.support.models import Case
from tests.support.oracle import assert_same_form, transformed

READINGS: dict[str, Callable[[Tensor, nn.Linear], Tensor]] = {
    "addmm": lambda y, layer: torch.addmm(layer.bias, y.flatten(0, 1), layer.weight.T),
    "baddbmm": lambda y, layer: torch.baddbmm(torch.zeros_like(y), y @ y.mT, y),
    "mean": lambda y, layer: layer(y).mean(1),
    "sum": lambda y, layer: layer(y).sum(1),
}


class Read(nn.Module):
    """Merged tokens, read in some way."""

    def __init__(self, read: Callable[[Tensor, nn.Linear], Tensor], offset: float = 0.0) -> None:
        super().__init__()
        self.body = by_hand(pool="none", depth=2, tokens=160).model
        self.layer = nn.Linear(5, 5)
        self.read, self.offset = read, offset

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.body(x) + self.offset, self.layer)


def test_a_mean_of_many_large_values_does_not_overflow() -> None:
    """Their sum would: 160 times 600 is beyond float16."""
    model = Read(lambda y, layer: y.mean(1), offset=600.0).half().eval()
    case = Case(model, (torch.randn(2, 160, 24, dtype=torch.float16),))
    with torch.no_grad():
        found = transformed(case, ratio=0.8)(*case.args)
        wanted = model(*case.args)
    assert_same_form(found, wanted)
    assert bool(found.isfinite().all()) and float((found - wanted).abs().max()) < 4


@pytest.mark.parametrize("name", READINGS)
def test_outputs_have_the_dtype_that_autocast_gives_them(name: str) -> None:
    model = Read(READINGS[name]).eval()
    case = Case(model, (torch.randn(2, 160, 24),))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert_same_form(transformed(case, ratio=0.8)(*case.args), model(*case.args))


def test_what_is_written_in_a_region_of_autocast_keeps_its_dtype() -> None:
    """There baddbmm would yield a half type, and baddbmm_ does not."""

    def read(y: Tensor, layer: nn.Linear) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = y.flip(1) * 1
            return y.baddbmm_((y @ y.mT).float(), y)

    model = Read(read).eval()
    case = Case(model, (torch.randn(2, 160, 24),))
    with torch.no_grad():
        assert_same_form(compiled(model, ratio=0.8)(*case.args), model(*case.args))

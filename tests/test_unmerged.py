"""unmerged gives back what was compiled, or says why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import pitome_fx
from pitome_fx import UsageError
from tests.support.blocks import by_hand
from tests.support.compiled import compiled
from tests.support.oracle import assert_equal

OPTIONS = {"ratio": 0.75}


def test_of_a_module_it_is_the_module_with_its_state() -> None:
    case = by_hand(depth=2)
    keys = list(case.model.state_dict())
    model = compiled(case.model, **OPTIONS)
    with torch.no_grad():
        model(*case.args)
    assert pitome_fx.unmerged(model) is case.model
    assert list(case.model.state_dict()) == keys
    assert pitome_fx.unmerged(case.model) is case.model, "a dense module is one already"


def test_of_a_function_it_is_the_function() -> None:
    def double(x: Any) -> Any:
        return x * 2

    assert pitome_fx.unmerged(compiled(double, **OPTIONS)) is double


def test_of_a_bound_method_it_is_the_method() -> None:
    case = by_hand(depth=2)
    model = compiled(case.model.forward, **OPTIONS)
    with torch.no_grad():
        merged = model(*case.args)
        dense = pitome_fx.unmerged(model)(*case.args)
        assert_equal(dense, case.model(*case.args))
    assert not torch.equal(merged, dense)


def test_of_what_is_compiled_twice_it_is_the_innermost() -> None:
    """Of a module that is compiled already torch compiles the forward."""
    model = by_hand(depth=1).model
    assert pitome_fx.unmerged(compiled(torch.compile(model, backend="eager"))) == model.forward


class Wrapping(nn.Module):
    """As a DistributedDataParallel, or an adapter, around a model that was compiled before."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def _in_place() -> nn.Module:
    model = by_hand(depth=1).model
    model.compile(backend="pitome", options=OPTIONS)
    return model


def _blocks_in_place() -> nn.Module:
    model = by_hand(depth=1).model
    model.blocks[0].compile(backend="pitome", options=OPTIONS)
    return compiled(model, **OPTIONS)


def _exported() -> Any:
    case = by_hand(depth=1)
    return torch.export.export(case.model, case.args)


def _transformed() -> Any:
    case = by_hand(depth=2)
    return pitome_fx.transform(case.model, case.args, **OPTIONS)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a wrapper of a compiled model": (
        lambda: Wrapping(compiled(by_hand(depth=1).model)),
        r"unmerged\(Wrapping\): its part 'module' was compiled by itself.*disabled\(\)",
    ),
    "a model compiled in place": (
        _in_place,
        r"unmerged\(Transformer\): the model was compiled in place.*disabled\(\)",
    ),
    "a part compiled in place": (_blocks_in_place, r"its part 'blocks.0' was compiled in place"),
    "a transformed model": (_transformed, "does not keep the model.*Keep the model itself"),
    "a compiled transformed model": (
        lambda: torch.compile(_transformed(), backend="eager"),
        "Keep the model itself",
    ),
    "an exported program": (_exported, "an ExportedProgram does not keep the model"),
    "a function": (lambda: by_hand, r"unmerged\(by_hand\): torch.compile did not return this"),
    "no function": (lambda: partial(by_hand), r"unmerged\(partial\): torch.compile did not"),
    "a name": (lambda: "model", r"unmerged\(str\): torch.compile did not return this"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_way_back_says_what_to_do(name: str) -> None:
    build, sentence = REFUSED[name]
    with pytest.raises(UsageError, match=sentence) as failure:
        pitome_fx.unmerged(build())
    assert "\n" not in str(failure.value)

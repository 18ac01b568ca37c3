"""The Inductor lowering. Every kernel costs a second to compile, so models are few and small."""

from typing import Any

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.utils import run_and_get_code

import pitome_fx
from pitome_fx.testing import simulate
from tests.support.blocks import by_hand
from tests.support.compiled import compiled, told
from tests.support.models import Case, bert, timm_vit
from tests.support.oracle import assert_close, assert_equal, assert_same_form, transformed


@pytest.fixture
def patches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Inductor is asked for, instead of compiling."""
    asked: list[dict[str, Any]] = []

    def compile_fx(graph: Any, inputs: Any, config_patches: dict[str, Any]) -> Any:
        asked.append(config_patches)
        return graph.forward

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", compile_fx)
    return asked


@pytest.mark.slow
@pytest.mark.parametrize("build", [lambda: timm_vit(depth=2), bert], ids=["vit", "bert"])
def test_inductor_computes_what_is_simulated(build: Any) -> None:
    """In float32, with the assignments of the eager run, which decides as Inductor does here."""
    case = build()
    with torch.no_grad():
        graph = transformed(case, ratio=0.8)
        _, assignments = pitome_fx.testing.run_recorded(graph, *case.args, **case.kwargs)
        wanted = simulate(case.model, case.args, case.kwargs, ratio=0.8, assignments=assignments)
        output = compiled(case.model, ratio=0.8, lowering="inductor")(*case.args, **case.kwargs)
        assert_same_form(output, case.model(*case.args, **case.kwargs))
    assert_close(output, wanted, 1e-5)


@pytest.mark.slow
def test_ratio_one_is_bit_identical_to_plain_inductor() -> None:
    case = by_hand(depth=2)
    with torch.no_grad(), told() as messages:
        plain = torch.compile(case.model, backend="inductor")(*case.args)
        torch._dynamo.reset()
        merged = compiled(case.model, ratio=1.0, lowering="inductor")
        output, code = run_and_get_code(merged, *case.args)
    assert_equal(output, plain)
    assert messages == [] and not any("pitome" in text for text in code)


@pytest.mark.slow
def test_nothing_to_merge_is_bit_identical_to_plain_inductor() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU())
    x = torch.randn(2, 8)
    plain = torch.compile(model, backend="inductor")(x)
    torch._dynamo.reset()
    with told() as messages:
        output = compiled(model, lowering="inductor", strict=False)(x)
    assert_equal(output, plain)
    assert len(messages) == 1


@pytest.mark.slow
def test_batch_may_change() -> None:
    case = by_hand(depth=1)
    model = compiled(case.model, ratio=0.8, lowering="inductor")
    with torch.no_grad():
        for size in (2, 3, 5):
            x = torch.randn(size, 24, 24)
            torch._dynamo.mark_dynamic(x, 0)
            graph = transformed(Case(case.model, (x,)), ratio=0.8)
            assert_close(model(x), graph(x), 1e-5)


def test_default_lowering_is_inductor(patches: list[dict[str, Any]]) -> None:
    case = by_hand(depth=1)
    torch.compile(case.model, backend="pitome", options={"ratio": 0.8})(*case.args)
    assert len(patches) == 1


def test_mode_of_torch_compile_is_honoured(patches: list[dict[str, Any]]) -> None:
    case = by_hand(depth=6)
    wanted = torch._inductor.list_mode_options()["max-autotune-no-cudagraphs"]
    model = torch.compile(case.model, backend="pitome", mode="max-autotune-no-cudagraphs")
    with told():
        model(*case.args)
    assert wanted.items() <= patches[0].items() and wanted


def test_mode_in_lowering_options(patches: list[dict[str, Any]]) -> None:
    case = by_hand(depth=1)
    extra = {"mode": "max-autotune-no-cudagraphs", "epilogue_fusion": False}
    for ratio in (0.8, 1.0):
        torch._dynamo.reset()
        model = compiled(case.model, ratio=ratio, lowering="inductor", lowering_options=extra)
        model(*case.args)
    for given in patches:
        assert given["max_autotune"] is True and given["epilogue_fusion"] is False
        assert "mode" not in given
    assert ["joint_custom_pre_pass" in given for given in patches] == [True, False]


def test_passes_of_the_user_stay(patches: list[dict[str, Any]]) -> None:
    def own(graph: torch.fx.Graph) -> None:
        return None

    case = by_hand(depth=1)
    options = {"joint_custom_pre_pass": own}
    model = compiled(case.model, ratio=0.8, lowering="inductor", lowering_options=options)
    model(*case.args)
    assert patches[0]["joint_custom_pre_pass"][0] is own


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fastest"}, "mode='fastest' is unknown; known: .*max-autotune"),
        ({"max_autotun": True}, "max_autotun"),
    ],
)
def test_wrong_lowering_options_raise(options: dict[str, Any], message: str) -> None:
    case = by_hand(depth=1)
    model = compiled(
        case.model, ratio=0.8, strict=False, lowering="inductor", lowering_options=options
    )
    with pytest.raises(BackendCompilerFailed, match=message):
        model(*case.args)

"""TensorRT: what it takes of a merged model, what is never let through, and an engine if it can be.

Without a GPU the convertibility alone is tested, see ``tests/support/tensorrt_dry_run.py``.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

import pitome_fx
from pitome_fx import LoweringError, OptionsError
from pitome_fx.backends import tensorrt
from pitome_fx.backends.lower import lower
from pitome_fx.backends.lowering import Job
from tests.support.blocks import by_hand
from tests.support.compiled import output_of
from tests.support.oracle import assert_close, transformed

ROOT = Path(__file__).resolve().parents[1]
HAS_PACKAGE = importlib.util.find_spec("torch_tensorrt") is not None
HAS_ENGINE = (
    torch.cuda.is_available() and HAS_PACKAGE and importlib.util.find_spec("tensorrt") is not None
)
CPU_ATTENTION = "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default"


@pytest.fixture(scope="module")
def dry_runs() -> dict[str, Any]:
    """What Torch-TensorRT makes of merged models, in a process with a stand-in for TensorRT."""
    if not HAS_PACKAGE:
        pytest.skip("torch_tensorrt is not installed (make env does, where there is a wheel)")
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.tensorrt_dry_run"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "deit", "dinov2-lift", "bert", "bert pitome-text"])
def test_every_node_has_a_converter_and_there_is_one_engine(
    dry_runs: dict[str, Any], name: str
) -> None:
    run = dry_runs[name]
    assert run["in_torch"] == []
    assert run["convertible"] == run["nodes"] > 100
    assert run["engines"] == 1


@pytest.mark.slow
def test_torch_compile_reaches_it_with_all_but_the_attention_of_the_cpu(
    dry_runs: dict[str, Any],
) -> None:
    """On CPU tensors attention is traced to an op of the CPU, the one node left over."""
    run = dry_runs["torch.compile"]
    assert run["graphs"] == 1
    assert len(run["in_torch"]) == 2 and all(CPU_ATTENTION in node for node in run["in_torch"])


@pytest.mark.slow
def test_log_size_is_not_replaced_by_causal_attention(dry_runs: dict[str, Any]) -> None:
    assert dry_runs["trap"] == {"True": False, "False": True}, "the default drops the bias"
    runs = [run for name, run in dry_runs.items() if name != "trap"]
    assert len(runs) == 6
    assert not any(run["causal"] or run["silent"] for run in runs)


@pytest.mark.parametrize(
    "setting", [{"attn_bias_is_causal": True}, {"pass_through_build_failures": False}]
)
def test_settings_that_would_be_silent_errors_are_refused(setting: dict[str, bool]) -> None:
    case = by_hand(depth=1)
    (name,) = setting
    with pytest.raises(OptionsError, match=rf"{name}=\w+ is not allowed.*without a word"):
        graph = transformed(case, ratio=0.8, form="portable")
        options = pitome_fx.Options(lowering="tensorrt", lowering_options=setting)
        lower(Job(graph, case.args, options, None, merged=True))
    program = torch.export.export(case.model, case.args)
    with pytest.raises(OptionsError, match=f"{name} is always"):
        tensorrt.compile_exported(program, **setting)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said at once and whatever strict says: nothing else would be what was asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    case = by_hand(depth=1)
    for strict in (False, True):
        with pytest.raises(BackendCompilerFailed, match="needs a CUDA GPU") as failure:
            output_of(case, ratio=0.8, lowering="tensorrt", strict=strict)
        assert isinstance(failure.value.inner_exception, OptionsError)
    with pytest.raises(OptionsError, match="needs a CUDA GPU"):
        tensorrt.compile_exported(torch.export.export(case.model, case.args))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(OptionsError, match=r"cannot import torch_tensorrt.*pip install.*tensorrt"):
        tensorrt.load()


def test_pitome_ops_are_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "load", lambda: None)
    case = by_hand(depth=1)
    program = torch.export.export(case.model, case.args)
    for form in ("pitome", "aten"):
        merged = pitome_fx.transform(program, ratio=0.8, form=form)
        with pytest.raises(OptionsError, match=r"transform it with form='portable'"):
            tensorrt.compile_exported(merged)


def test_numbers_of_tokens_that_it_cannot_sort() -> None:
    case = by_hand(depth=1)
    graph = transformed(case, ratio=0.8, form="portable", algorithm="pitome")
    tensorrt.check_sorts(graph)
    (node,) = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.topk.default)
    node.args = (node.args[0], 4000, *node.args[2:])
    with pytest.raises(
        LoweringError, match="at most 3840 tokens and a block of this model has 4000"
    ):
        tensorrt.check_sorts(graph)
    layer = torch.nn.TransformerEncoderLayer(24, 3, 48, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    shapes = ({1: torch.export.Dim("length", min=16, max=64)},)
    program = torch.export.export(encoder, (torch.randn(2, 24, 24),), dynamic_shapes=shapes)
    merged = pitome_fx.transform(program, ratio=0.8, strict=True, form="portable")
    with pytest.raises(LoweringError, match="only where their number is static"):
        tensorrt.check_sorts(merged.graph_module)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ENGINE, reason="no CUDA GPU with TensorRT: no engine is run here")
@pytest.mark.parametrize("route", ["torch.compile", "exported"])
def test_engine_computes_what_eager_does(route: str) -> None:
    case = by_hand(depth=2)
    model, args = case.model.cuda(), tuple(x.cuda() for x in case.args)
    with torch.no_grad():
        wanted = pitome_fx.transform(model, args, ratio=0.8, strict=True)(*args)
        if route == "exported":
            program = torch.export.export(model, args)
            merged = pitome_fx.transform(program, ratio=0.8, strict=True, form="portable")
            built = tensorrt.compile_exported(merged, min_block_size=1, disable_tf32=True)
        else:
            settings = {"min_block_size": 1, "disable_tf32": True}
            options = {"ratio": 0.8, "lowering": "tensorrt", "lowering_options": settings}
            built = torch.compile(model, backend="pitome", options={**options, "strict": True})
        assert_close(built(*args), wanted, 1e-4)

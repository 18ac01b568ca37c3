"""Merged programs in other engines and in processes without the library: the same numbers."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch.export import ExportedProgram

import pitome_fx
from pitome_fx import OptionsError
from pitome_fx.backends.lower import check_lowering
from tests.support.blocks import by_hand
from tests.support.compiled import compiled, output_of, told
from tests.support.models import Case, bert, timm_vit
from tests.support.oracle import assert_close, assert_equal, expected, tensors, transformed

FLOAT32 = 1e-4
PRECISE = {"config": {"INFERENCE_PRECISION_HINT": "f32"}}


def has(*packages: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in packages)


needs_onnx = pytest.mark.skipif(
    not has("onnx", "onnxscript", "onnxruntime"), reason="the extra onnx is not installed"
)
needs_openvino = pytest.mark.skipif(
    not has("openvino"), reason="the extra openvino is not installed"
)


def merged(case: Case, form: str, **options: Any) -> ExportedProgram:
    """The case's model exported and on merged tokens."""
    program = torch.export.export(case.model, case.args, dict(case.kwargs))
    result = pitome_fx.transform(program, ratio=0.8, strict=True, form=form, **options)
    assert isinstance(result, ExportedProgram)
    return result


def run(program: ExportedProgram, case: Case) -> Any:
    with torch.no_grad():
        return program.module()(*case.args, **case.kwargs)


def arrays(case: Case) -> list[Any]:
    """The inputs of the case as an engine takes them."""
    return [x.numpy() for x in tensors((case.args, dict(case.kwargs)))]


@needs_onnx
@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize("name", ["biased-mean", "bert"])
def test_onnx_runtime_and_openvino_compute_what_eager_does(name: str, tmp_path: Path) -> None:
    """From one ONNX file, and for OpenVINO from the exported program too."""
    import onnxruntime
    import openvino

    case = by_hand(bias=True, pool="mean", depth=2) if name == "biased-mean" else bert()
    blocks = [0] if name == "bert" else None
    program = merged(case, "portable", blocks=blocks)
    with torch.no_grad():
        wanted = transformed(case, ratio=0.8, blocks=blocks)(*case.args, **case.kwargs)

    file = tmp_path / "model.onnx"
    torch.onnx.export(program, f=file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    found = session.run(None, dict(zip(names, arrays(case), strict=True)))
    assert_close([torch.from_numpy(x) for x in found], wanted, FLOAT32)

    for source in (file, program):
        compiled = openvino.compile_model(openvino.convert_model(source), "CPU", PRECISE["config"])
        answer = compiled(arrays(case))
        assert_close([torch.from_numpy(x.copy()) for x in answer.values()], wanted, FLOAT32)


@needs_onnx
@pytest.mark.slow
def test_onnx_keeps_dynamic_sizes(tmp_path: Path) -> None:
    """Two merges, so that a number of tokens is the difference of two that were rounded."""
    import onnxruntime

    layer = torch.nn.TransformerEncoderLayer(24, 3, 48, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    sizes = {
        0: torch.export.Dim("batch", min=2, max=64),
        1: torch.export.Dim("length", min=16, max=64),
    }
    program = torch.export.export(encoder, (torch.randn(3, 24, 24),), dynamic_shapes=(sizes,))
    program = pitome_fx.transform(program, ratio=0.8, strict=True, form="portable")
    file = tmp_path / "model.onnx"
    torch.onnx.export(program, f=file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (name,) = (node.name for node in session.get_inputs())
    for batch, length in [(2, 40), (5, 57), (3, 24)]:
        x = torch.randn(batch, length, 24)
        (found,) = session.run(None, {name: x.numpy()})
        with torch.no_grad():
            assert_close(torch.from_numpy(found), program.module()(x), FLOAT32)


class TestOpenVinoLowering:
    """lowering="openvino" in torch.compile."""

    @needs_openvino
    @pytest.mark.slow
    def test_computes_what_eager_does(self) -> None:
        """The convolution of the patches, the log-size term and the class token."""
        from openvino.frontend.pytorch.torchdynamo import execute

        case = timm_vit(depth=2)
        before = len(execute.compiled_cache)
        output = output_of(case, ratio=0.8, lowering="openvino", lowering_options=PRECISE)
        assert len(execute.compiled_cache) == before + 1, "OpenVINO ran it, in one piece"
        with torch.no_grad():
            wanted = transformed(case, ratio=0.8)(*case.args, **case.kwargs)
        assert_close(output, wanted, FLOAT32)

    @needs_openvino
    @pytest.mark.parametrize("ratio", [0.8, 1.0], ids=["merged", "dense"])
    def test_outputs_outlive_the_next_call(self, ratio: float) -> None:
        case = by_hand(depth=1)
        with torch.no_grad():
            model = compiled(case.model, ratio=ratio, lowering="openvino", lowering_options=PRECISE)
            first = model(*case.args)
            before = first.clone()
            model(*(3 * x for x in case.args))
        assert_equal(first, before)

    def test_its_silent_way_into_inductor_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not for a dense graph, where nothing that was asked for is lost."""

        def gave_up(graph: Any, inputs: Any, **settings: Any) -> Any:
            return graph.forward

        monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: gave_up)
        case = by_hand(depth=1)
        with told() as messages:
            output = output_of(case, ratio=0.8, lowering="openvino", strict=False)
        with torch.no_grad():
            assert_equal(output, case.model(*case.args, **case.kwargs))
        assert [text.partition(" and would")[0] for text in messages] == [
            "pitome: the model runs dense: OpenVINO could not convert the graph"
        ]
        assert "report" not in messages[0]
        torch._dynamo.reset()
        with pytest.raises(BackendCompilerFailed, match="OpenVINO could not convert the graph"):
            output_of(case, ratio=0.8, lowering="openvino")

    @pytest.mark.parametrize(
        ("settings", "options", "message"),
        [
            ({"dynamic": True}, {}, "compile with dynamic=False"),
            ({}, {"aot_autograd": True}, "aot_autograd is not allowed"),
        ],
    )
    def test_what_it_would_run_in_eager_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch, settings: Any, options: Any, message: str
    ) -> None:
        def fx_openvino(graph: Any, inputs: Any, options: Any = None) -> Any:
            return graph.forward

        monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: fx_openvino)
        case = by_hand(depth=1)
        given = {"ratio": 0.8, "lowering": "openvino", "lowering_options": options, "strict": True}
        model = torch.compile(case.model, backend="pitome", options=given, **settings)
        with pytest.raises(BackendCompilerFailed, match=message):
            model(*case.args)

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(name: str) -> Any:
            raise torch._dynamo.exc.InvalidBackend(name=name)

        monkeypatch.setattr(torch._dynamo, "lookup_backend", unknown)
        with pytest.raises(OptionsError, match=r"needs the package openvino: pip install"):
            check_lowering(pitome_fx.Options(lowering="openvino"), None)


ELSEWHERE = {
    "inductor": "tests/test_inductor.py",
    "eager": "tests/test_backend.py",
    "openvino": "TestOpenVinoLowering",
    "pitome": "it is the backend itself",
    "cudagraphs": "needs CUDA graphs",
    "openxla": "needs torch_xla",
    "openxla_eval": "needs torch_xla",
    "tvm": "needs TVM",
    "dynamo_minifier_backend": "for reproducing errors",
    "dynamo_accuracy_minifier_backend": "for reproducing errors",
    "aot_eager_decomp_partition_with_mode": "takes a mode of its own",
    "aot_eager_decomp_partition_crossref": "for testing decompositions",
    "ts": "TorchScript is deprecated and warns",
    "aot_ts": "TorchScript is deprecated and warns",
}
"""Registered backends that the next test does not run."""


@pytest.mark.parametrize("name", sorted(torch._dynamo.list_backends(exclude_tags=None)))
def test_every_registered_backend_lowers(name: str) -> None:
    if name in ELSEWHERE or name.endswith("_TESTING_ONLY"):
        pytest.skip(ELSEWHERE.get(name, "fails on purpose"))
    case = by_hand(depth=1).to(torch.float64)
    assert_close(output_of(case, ratio=0.8, lowering=name), expected(case, ratio=0.8), 1e-9)


LOAD = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "pitome_fx":
            raise ModuleNotFoundError("pitome_fx is not installed here")

sys.meta_path.insert(0, Absent())
import torch

folder = sys.argv[1]
x = torch.load(folder + "/input.pt")
with torch.no_grad():
    outputs = {
        form: torch.export.load(f"{folder}/{form}.pt2").module()(x) for form in ("aten", "portable")
    }
    outputs["package"] = torch._inductor.aoti_load_package(folder + "/package.pt2")(x)
assert "pitome_fx" not in sys.modules
try:
    torch.export.load(folder + "/pitome.pt2")
except Exception as error:
    outputs["pitome"] = type(error).__name__
torch.save(outputs, folder + "/outputs.pt")
"""


@pytest.mark.slow
def test_programs_run_where_the_library_is_not_installed(tmp_path: Path) -> None:
    """Saved by torch.export, and packaged by AOTInductor, in a process of its own."""
    case = by_hand(pool="none", depth=1)
    programs = {form: merged(case, form) for form in ("pitome", "aten", "portable")}
    for form, program in programs.items():
        torch.export.save(program, tmp_path / f"{form}.pt2")
    package = str(tmp_path / "package.pt2")
    torch._inductor.aoti_compile_and_package(programs["aten"], package_path=package)
    torch.save(case.args[0], tmp_path / "input.pt")
    subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", LOAD, str(tmp_path)], check=True)

    outputs: dict[str, Tensor] = torch.load(tmp_path / "outputs.pt")
    assert_equal(outputs["aten"], run(programs["aten"], case))
    assert_equal(outputs["portable"], run(programs["portable"], case))
    assert_close(outputs["package"], run(programs["pitome"], case), 1e-5)
    assert isinstance(outputs["pitome"], str), "visible pitome ops need the library"

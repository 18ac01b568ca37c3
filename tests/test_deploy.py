"""Files that run without this library: pitome ops dissolve, formats are written and read back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import pitome_fx
from pitome_fx import DeployError, deploy
from pitome_fx.passes.dissolve.exported import in_form
from tests.support.blocks import by_hand
from tests.support.models import Case, bert, encoder
from tests.support.oracle import assert_close, assert_equal


def merged(case: Case, **options: Any) -> ExportedProgram:
    """The case on merged tokens."""
    program = torch.export.export(case.model, case.args, dict(case.kwargs), strict=False)
    return pitome_fx.transform(program, ratio=0.8, strict=True, **options)


def targets(program: ExportedProgram) -> set[str]:
    """Names of the ops of a graph."""
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


class TestDissolve:
    def test_only_pitome_ops_are_spelled_out(self) -> None:
        case = by_hand(depth=2)
        before = merged(case)
        after = in_form(before, "aten")
        assert not any("pitome" in target for target in targets(after))
        kept = {"aten.linear.default", "aten.layer_norm.default", "aten.gelu.default"}
        kept |= {"aten.scaled_dot_product_attention.default"}
        assert kept <= targets(after)
        assert any("pitome" in target for target in targets(before)), "the program is left alone"
        assert after.graph_signature.user_inputs == before.graph_signature.user_inputs
        assert after.state_dict.keys() == before.state_dict.keys()
        with torch.no_grad():
            assert_equal(after.module()(*case.args), before.module()(*case.args))

    def test_matching_that_knows_of_padding(self, tmp_path: Path) -> None:
        case = encoder(padded=True)
        before = merged(case, algorithm="pitome-text")
        after = in_form(before, "aten")
        assert not any("pitome" in target for target in targets(after))
        with torch.no_grad():
            wanted = before.module()(*case.args, **case.kwargs)
            assert_equal(after.module()(*case.args, **case.kwargs), wanted)
        deploy.save(before, tmp_path / "padded.onnx", "onnx")
        (found,) = deploy.FORMATS["onnx"].load(tmp_path / "padded.onnx")(*case.args, **case.kwargs)
        assert_close(found, wanted, 1e-5)

    @pytest.mark.parametrize("form", ["aten", "portable"])
    def test_merges_are_in_full_precision_in_a_region_of_autocast(self, form: str) -> None:
        class Region(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = by_hand(depth=1).model

            def forward(self, x: Tensor) -> Tensor:
                with torch.autocast("cpu", torch.bfloat16):
                    return self.model(x)

        case = Case(Region().eval(), by_hand(depth=1).args)
        with torch.no_grad():
            wanted = merged(case).module()(*case.args)
            assert_close(merged(case, form=form).module()(*case.args), wanted, 1e-2)
            assert_close(in_form(merged(case), "aten").module()(*case.args), wanted, 0)

    def test_without_pitome_ops_nothing_is_done(self) -> None:
        program = torch.export.export(nn.Linear(3, 4), (torch.ones(2, 3),))
        assert in_form(program, "aten") is program


def test_types_that_a_file_needs_to_be_loaded_are_known() -> None:
    case, other = bert(), by_hand(depth=1)
    program = torch.export.export(case.model, (), dict(case.kwargs), strict=False)
    assert deploy.imports_of(program) == ["transformers.modeling_outputs"]
    assert deploy.imports_of(torch.export.export(other.model, other.args)) == []


def test_onnx_weights_of_two_gigabytes_go_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, 30)
    program = torch.export.export(nn.Linear(30, 40), (x,))
    file = tmp_path / "linear.onnx"
    with monkeypatch.context() as patch:
        patch.setattr(deploy, "PROTOBUF_LIMIT", 1000)
        assert deploy.save(program, file, "onnx") == [file, tmp_path / "linear.onnx.data"]
    (found,) = deploy.FORMATS["onnx"].load(file)(x)
    with torch.no_grad():
        assert_close(found, program.module()(x), 1e-6)
    assert deploy.save(program, file, "onnx") == [file], "a stale weights file goes away"
    assert not (tmp_path / "linear.onnx.data").exists()


def test_weights_go_only_when_the_file_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = torch.export.export(nn.Linear(3, 4), (torch.ones(2, 3),))
    beside = tmp_path / "linear.onnx.data"
    beside.write_text("weights of before")

    class Failing:
        def save(self, path: Path, external_data: bool) -> None:
            raise OSError("the disk is full")

    monkeypatch.setattr(torch.onnx, "export", lambda *args, **settings: Failing())
    with pytest.raises(DeployError, match="the disk is full"):
        deploy.save(program, tmp_path / "linear.onnx", "onnx")
    assert beside.exists()
    (tmp_path / "linear.pt2.data").touch()
    assert deploy.save(program, tmp_path / "linear.pt2", "ep") == [tmp_path / "linear.pt2"]


def test_onnx_takes_tensors_that_need_gradients(tmp_path: Path) -> None:
    x = torch.ones(2, 3, requires_grad=True)
    program = torch.export.export(nn.Linear(3, 4), (x,))
    deploy.save(program, tmp_path / "linear.onnx", "onnx")
    (found,) = deploy.FORMATS["onnx"].load(tmp_path / "linear.onnx")(x)
    assert_close(found, program.module()(x).detach(), 1e-6)


class TestErrors:
    def test_aten_programs_are_nothing_for_onnx(self, tmp_path: Path) -> None:
        program = merged(by_hand(depth=1), form="aten")
        with pytest.raises(DeployError, match=r"transform it with form='portable'"):
            deploy.save(program, tmp_path / "a.onnx", "onnx")

    @pytest.fixture(scope="class")
    @classmethod
    def program(cls) -> ExportedProgram:
        return torch.export.export(nn.Linear(3, 4), (torch.ones(2, 3),))

    @pytest.mark.parametrize(
        ("path", "to", "message"),
        [
            ("a.pt2", "tflite", r"'tflite' is no format: expected one of onnx, pt2, ep"),
            ("a.pt2", "onnx", r"an ONNX model ends in \.onnx"),
            ("a.onnx", "pt2", r"an AOTInductor package ends in \.pt2"),
            ("none/a.pt2", "ep", r"there is no folder .*none to write a\.pt2 to"),
            ("folder.pt2", "ep", r"folder\.pt2 is a folder; name a file"),
        ],
    )
    def test_of_the_path(
        self, program: ExportedProgram, tmp_path: Path, path: str, to: str, message: str
    ) -> None:
        (tmp_path / "folder.pt2").mkdir()
        with pytest.raises(DeployError, match=message):
            deploy.save(program, tmp_path / path, to)

    def test_missing_package(
        self, program: ExportedProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deploy, "missing_packages", lambda names: list(names))
        message = r"an ONNX model needs onnx and onnxscript: .*'pitome-fx\[onnx\]'"
        with pytest.raises(DeployError, match=message):
            deploy.save(program, tmp_path / "a.onnx", "onnx")

    def test_failing_exporter_says_the_first_cause(self, tmp_path: Path) -> None:
        class Unknown(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.histc(x)

        program = torch.export.export(Unknown(), (torch.ones(5),))
        message = r"the ONNX model cannot be written: .*histc"
        with pytest.raises(DeployError, match=message) as caught:
            deploy.save(program, tmp_path / "a.onnx", "onnx")
        assert "\n" not in str(caught.value)

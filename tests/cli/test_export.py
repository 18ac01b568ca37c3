"""Files that export writes, and the check of what they compute."""

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram

import pitome_fx
from pitome_fx import deploy
from pitome_fx.cli import exporting, models
from pitome_fx.testing import simulate
from tests.cli.calls import ROOT, SMALL, TINY_BERT, Cli, small
from tests.support.oracle import assert_close


class TestExport:
    def test_ep_computes_what_the_oracle_says(self, cli: Cli, tmp_path: Path) -> None:
        file = tmp_path / "small.pt2"
        status, out, err = cli("export", *SMALL, "--ratio", "0.8", "--to", "ep", "-o", str(file))
        assert (status, err) == (0, "")
        assert f"written  {file} (ExportedProgram), {file.stat().st_size / 1e6:.2f} MB" in out
        assert "merged   1 block\n" in out
        assert "checked  runs; differs from the same graph in PyTorch by 0.0e+00" in out
        assert "inputs   2x24x24:float32\n" in out
        assert f'load     torch.export.load("{file}").module()(x)' in out
        program, call = torch.export.load(file), small()
        assert not any("pitome" in str(node.target) for node in program.graph.nodes)
        with torch.no_grad():
            found = program.module()(*call.args)
            assert_close(found, simulate(call.model, call.args, ratio=0.8), 1e-5)

    @pytest.mark.parametrize("name", ["small.ep", "small", "small.v1.pt"])
    def test_ep_takes_any_name(
        self, cli: Cli, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
    ) -> None:
        file = tmp_path / name
        status, out, err = cli("export", *SMALL, "--ratio", "0.8", "--to", "ep", "-o", str(file))
        assert (status, err, caplog.text) == (0, "", "")
        assert [file] == list(tmp_path.iterdir())
        load = out[out.index("load     ") :].removeprefix("load     ").strip()
        call = small()
        with torch.no_grad(), contextlib.ExitStack() as opened:
            opening = lambda *args: opened.enter_context(open(*args))  # noqa: E731
            found = eval(load, {"torch": torch, "x": call.args[0], "open": opening})
            assert_close(found, simulate(call.model, call.args, ratio=0.8), 1e-5)

    def test_dense_where_the_environment_switches_merging_off(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = ["export", *SMALL, "--ratio", "0.8", "--to", "ep", "-o", str(tmp_path / "small")]
        monkeypatch.setenv("PITOME_FX", "off")
        status, out, err = cli(*words)
        assert (status, err) == (0, "")
        assert "merged   0 blocks: merging is switched off (PITOME_FX=off)\n" in out
        monkeypatch.setenv("PITOME_FX", "0")
        status, out, err = cli(*words)
        assert status == 2 and "PITOME_FX='0' in the environment is not allowed" in err
        assert err.count("\n") == 1

    def test_help_says_which_names_a_format_takes(
        self, cli: Cli, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            cli("export", "--help")
        said = " ".join(capsys.readouterr().out.split())
        assert "*.onnx for onnx, *.pt2 for pt2, any name for ep" in said

    def test_onnx_with_any_batch(self, cli: Cli, tmp_path: Path) -> None:
        file = tmp_path / "small.onnx"
        words = ["--ratio", "0.8", "--to", "onnx", "-o", str(file), "--dynamic-batch"]
        status, out, err = cli("export", *SMALL, *words)
        assert (status, err) == (0, "")
        assert "inputs   2x24x24:float32, any number of items\n" in out
        assert f'onnxruntime.InferenceSession("{file}").run(None, {{"x": x}})' in out
        call, run = small(), deploy.FORMATS["onnx"].load(file)
        for batch in (1, 5):
            x = torch.randn(batch, 24, 24)
            with torch.no_grad():
                assert_close(run(x)[0], simulate(call.model, (x,), ratio=0.8), 1e-5)

    def test_keyword_inputs(self, cli: Cli, tmp_path: Path) -> None:
        file = tmp_path / "bert.pt2"
        settings = [word for item in TINY_BERT for word in ("--set", item)]
        status, out, err = cli("export", "hf:bert", *settings, "--to", "ep", "-o", str(file))
        assert (status, err) == (0, "")
        assert "inputs   input_ids=1x128:int64, attention_mask=1x128:int64\n" in out
        assert ".module()(input_ids=input_ids, attention_mask=attention_mask)" in out

    @pytest.mark.usefixtures("own")
    def test_what_to_import_first_is_said(self, cli: Cli, tmp_path: Path) -> None:
        words = ["--to", "ep", "-o", str(tmp_path / "o.pt2"), "--no-check", "--ratio", "1"]
        _, out, _ = cli("export", "own_models:output", *words)
        assert "load     import transformers.modeling_outputs; torch.export.load(" in out

    @pytest.mark.usefixtures("own")
    def test_dense_with_a_warning_where_nothing_merges(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        status, out, err = cli("export", "own_models:with_kwargs", "--to", "ep", "--no-check")
        assert status == 0 and "merged   0 blocks" in out and "checked" not in out
        assert err == (
            "python -m pitome_fx: warning: the model runs dense: no attention was found in it.\n"
        )
        assert (tmp_path / "with_kwargs.ep.pt2").exists(), "named after the model"

    @pytest.mark.slow
    def test_pt2_computes_what_the_oracle_says(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        status, out, err = cli("export", *SMALL, "--ratio", "0.8", "--to", "pt2")
        assert (status, err) == (0, "") and "checked  runs; differs" in out
        x, call = torch.randn(2, 24, 24), small()
        with torch.no_grad():
            found = deploy.FORMATS["pt2"].load(tmp_path / "Transformer.pt2")(x)
            assert_close(found, simulate(call.model, (x,), ratio=0.8), 1e-5)

    def test_a_dynamic_batch_is_checked_in_two_sizes(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []

        def load(path: Path) -> Any:
            run = torch.export.load(path).module()

            def recorded(x: Tensor) -> Any:
                sizes.append(len(x))
                return run(x)

            return recorded

        changed = dataclasses.replace(deploy.FORMATS["ep"], load=load)
        monkeypatch.setattr(deploy, "FORMATS", {**deploy.FORMATS, "ep": changed})
        words = ["--ratio", "0.8", "--to", "ep", "--dynamic-batch", "-o", str(tmp_path / "a.pt2")]
        status, out, err = cli("export", *SMALL, *words)
        assert (status, err) == (0, "") and sizes == [2, 3]
        assert "with one item more runs; differs" in out

    @pytest.mark.slow
    def test_as_a_process(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "pitome_fx", "export", *SMALL, "--ratio", "0.8"]
        command += ["--to", "ep", "-o", str(tmp_path / "small.pt2")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "merged   1 block\n" in done.stdout
        x, call = torch.randn(2, 24, 24), small()
        with torch.no_grad():
            found = deploy.FORMATS["ep"].load(tmp_path / "small.pt2")(x)
            assert_close(found, simulate(call.model, (x,), ratio=0.8), 1e-5)


class TestCheckOfTheFile:
    """A file that computes something else is noticed."""

    def compare(self, monkeypatch: pytest.MonkeyPatch, load: Callable[[Path], Any]) -> str:
        changed = dataclasses.replace(deploy.FORMATS["ep"], load=load)
        monkeypatch.setattr(deploy, "FORMATS", {"ep": changed})
        call = small()
        program: ExportedProgram = torch.export.export(call.model, call.args)
        return exporting._compare(program, call, Path("small.pt2"), "ep")

    def test_other_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = small().model
        with pytest.warns(pitome_fx.PitomeWarning, match=r"differs .* by 1\.0e-01 .* near-tie"):
            self.compare(monkeypatch, lambda path: lambda x: model(x) * 1.1)

    def test_nan(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = small().model
        with pytest.warns(pitome_fx.PitomeWarning, match="by nan"):
            self.compare(monkeypatch, lambda path: lambda x: model(x) * torch.nan)

    def test_it_does_not_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(pitome_fx.PitomeError, match=r"was written but does not run: TypeError"):
            self.compare(monkeypatch, lambda path: lambda: None)

    @pytest.mark.parametrize(
        "change", [lambda y: y[:1], lambda y: (y, y)], ids=["shape", "number of outputs"]
    )
    def test_other_shapes(
        self, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Any]
    ) -> None:
        model = small().model
        with pytest.raises(pitome_fx.DeployError, match=r"returns tensors of shapes .* in PyTorch"):
            self.compare(monkeypatch, lambda path: lambda x: change(model(x)))

    @pytest.mark.parametrize(("dtype", "factor"), [("float16", 1.01), ("bfloat16", 1.05)])
    def test_half_types_are_rounded_more(self, dtype: str, factor: float) -> None:
        assert factor - 1 < exporting._rounding(getattr(torch, dtype)) < 0.2
        assert exporting._rounding(torch.float32) == exporting._rounding(torch.float64) == 1e-4

    def test_onnx_with_inputs_that_numpy_has_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = torch.nn.Linear(3, 4).bfloat16()
        call = models.Call(model, (torch.ones(2, 3, dtype=torch.bfloat16),), {})
        program = torch.export.export(model, call.args)
        monkeypatch.setattr(deploy, "missing_packages", lambda names: [])
        assert "no bfloat16" in exporting._compare(program, call, Path("a.onnx"), "onnx")

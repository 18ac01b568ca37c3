"""The command line: what it prints and writes, and the one sentence for what is wrong."""

import argparse
import dataclasses
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

import pitome_fx
from pitome_fx import deploy
from pitome_fx.cli import commands, models
from pitome_fx.cli.arguments import make_parser, options_of
from pitome_fx.cli.shapes import InputSpec
from pitome_fx.options import Options
from pitome_fx.testing import simulate
from tests.support.oracle import assert_close

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = "tests.support.blocks:Transformer"
SMALL = [BLOCKS, "--set", "depth=1", "--input", "2x24x24"]
DEEPER = [BLOCKS, "--set", "depth=2", "--input", "2x24x24"]
TINY_BERT = ["num_hidden_layers=1", "hidden_size=24", "num_attention_heads=2", "vocab_size=50"]

OWN_MODELS = """
import torch
from torch import nn
from pitome_fx import register
from pitome_fx.algorithms import ALGORITHMS

class Zoo:
    linear = nn.Linear(4, 3)

def alone(width=4): return nn.Linear(width, 3)
def with_tensor(): return nn.Linear(4, 3), torch.ones(2, 4)
def with_args(): return nn.Linear(4, 3), [torch.ones(2, 4)]
def with_kwargs(): return nn.Linear(4, 3), (), {"input": torch.ones(2, 4)}
def number(): return 3
def strange(): return nn.Linear(4, 3), 7
class Fixed(nn.Module):
    def forward(self, x): return x.reshape(2, -1)

class Output(nn.Module):
    def __init__(self):
        super().__init__()
        from tests.support.models import bert
        self.bert = bert().model

    def forward(self, x): return self.bert(x)

def output(): return Output(), torch.ones(2, 8, dtype=torch.long)
class Untraceable(nn.Module):
    def forward(self, x): return x + 1 if x.sum() > 0 else x

def untraceable(): return Untraceable(), torch.ones(2, 3)
def fixed(): return Fixed(), torch.ones(2, 3, 4)
def failing(): raise KeyError("a key\\nand more")
value = 7

if "mine" not in ALGORITHMS:
    register("mine")(ALGORITHMS["pitome"].match)
"""

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command line in this process: its status and what it printed."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = commands.main(arguments)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module ``own_models`` of the user's."""
    (tmp_path / "own_models.py").write_text(OWN_MODELS)
    monkeypatch.syspath_prepend(tmp_path)


def small() -> models.Call:
    """The model and inputs of the command line ``SMALL``."""
    return models.load(models.find(BLOCKS), {"depth": 1}, [InputSpec((2, 24, 24))])


class TestOptions:
    """The options of pitome are the fields of Options."""

    GIVEN = (
        ("--ratio 0.9", {"ratio": 0.9}),
        ("--ratio 1", {"ratio": 1}),
        ("--r 3", {"r": 3}),
        ("--flops .5", {"flops": 0.5}),
        ("--schedule 0.9,0.8", {"schedule": (0.9, 0.8)}),
        ("--schedule 0.9", {"schedule": (0.9,)}),
        ("--algorithm pitome-elu", {"algorithm": "pitome-elu"}),
        ("--margin=-0.5", {"margin": -0.5}),
        ("--alpha 2", {"alpha": 2}),
        ("--metric hidden", {"metric": "hidden"}),
        ("--protect auto", {"protect": "auto"}),
        ("--protect 2", {"protect": 2}),
        ("--no-proportional", {"proportional": False}),
        ("--blocks 0,2", {"blocks": (0, 2)}),
        ("--blocks 1", {"blocks": (1,)}),
        ("--min-tokens 16", {"min_tokens": 16}),
        ("--strict", {"strict": True}),
        ("", {}),
    )

    @pytest.mark.parametrize(("words", "options"), GIVEN, ids=lambda value: str(value))
    def test_words_become_options(self, words: str, options: dict[str, Any]) -> None:
        parsed = make_parser().parse_args(["export", "m:f", "--to", "ep", *words.split()])
        assert options_of(parsed) == options
        assert Options.parse(options_of(parsed)) == Options(**options)

    def test_every_field_is_tried_and_explained(self) -> None:
        fields = {field.name for field in dataclasses.fields(Options)}
        fields -= {"lowering", "lowering_options"}
        assert fields == {name for _, options in self.GIVEN for name in options}
        (commands_of,) = (
            action
            for action in make_parser()._actions
            if isinstance(action, argparse._SubParsersAction)
        )
        for name, without in (("export", set()), ("explain", {"strict"})):
            actions = {action.dest: action for action in commands_of.choices[name]._actions}
            assert set(actions) & fields == fields - without
            explained = str(inspect.getdoc(Options)).replace("`", "")
            for field in fields - without:
                assert len(str(actions[field].help)) > 25
                assert str(actions[field].help)[:25] in explained

    @pytest.mark.parametrize("words", [["-h"], ["explain", "-h"], ["export", "-h"], ["--version"]])
    def test_help_is_printed(self, cli: Cli, words: list[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            cli(*words)
        assert ended.value.code == 0


class TestExplain:
    def test_prints_the_report(self, cli: Cli) -> None:
        status, out, err = cli("explain", *SMALL, "--ratio", "0.8")
        call = small()
        wanted = pitome_fx.explain(call.model, *call.args, options={"ratio": 0.8})
        assert (status, err) == (0, "")
        assert out.strip() == str(wanted)
        assert "25 → 21" in out

    def test_json(self, cli: Cli) -> None:
        status, out, _ = cli("explain", *DEEPER, "--r", "4", "--blocks", "1", "--json")
        report = json.loads(out)
        assert status == 0
        assert [block["merged"] for block in report["blocks"]] == [False, True]
        assert report["blocks"][1]["tokens_before"] - report["blocks"][1]["tokens_after"] == 4


class TestNames:
    @pytest.mark.usefixtures("own")
    @pytest.mark.parametrize("name", ["with_tensor", "with_args", "with_kwargs"])
    def test_a_callable_may_bring_inputs(self, name: str) -> None:
        call = models.load(models.find(f"own_models:{name}"), {})
        (value,) = (*call.args, *call.kwargs.values())
        assert isinstance(call.model, nn.Linear) and not call.model.training
        assert torch.equal(value, torch.ones(2, 4))

    @pytest.mark.usefixtures("own")
    def test_settings_inputs_and_nested_names(self) -> None:
        wide = [InputSpec.parse("input=2x6:float32")]
        call = models.load(models.find("own_models:alone"), {"width": 6}, wide)
        assert call.kwargs["input"].shape == (2, 6)
        nested = models.load(models.find("own_models:Zoo.linear"), {}, [InputSpec((2, 4))])
        assert isinstance(nested.model, nn.Linear)

    @pytest.mark.usefixtures("own")
    def test_the_module_may_register_the_algorithm_asked_for(self, cli: Cli) -> None:
        status, out, _ = cli("explain", "own_models:with_tensor", "--algorithm", "mine")
        assert status == 0 and "(mine)" in out

    def test_weights_are_the_same_each_time_or_those_given(self, tmp_path: Path) -> None:
        first, second = small(), small()
        for key, value in first.model.state_dict().items():
            assert torch.equal(value, second.model.state_dict()[key])
        assert torch.equal(first.args[0], second.args[0])
        state = {key: value + 1 for key, value in first.model.state_dict().items()}
        torch.save(state, tmp_path / "weights.pt")
        build, inputs = models.find(BLOCKS), [InputSpec((2, 24, 24))]
        given = models.load(build, {"depth": 1}, inputs, tmp_path / "weights.pt")
        assert torch.equal(given.model.state_dict()["head.bias"], state["head.bias"])

    def test_timm(self, cli: Cli) -> None:
        changes = ["--set", "depth=1", "--set", "img_size=64", "--set", "embed_dim=48"]
        name = "timm:vit_tiny_patch16_224"
        status, out, _ = cli("explain", name, *changes, "--set", "num_heads=3", "--ratio", "0.8")
        assert status == 0 and "17 → 14" in out

    @pytest.mark.parametrize("name", ["bert", "BertForSequenceClassification", "config.json"])
    def test_hugging_face(self, name: str, tmp_path: Path) -> None:
        import transformers

        if name == "config.json":
            config = transformers.BertConfig(architectures=["BertForSequenceClassification"])
            config.save_pretrained(tmp_path)
            name = str(tmp_path / name)
        settings = dict(item.split("=") for item in TINY_BERT)
        call = models.load(
            models.find(f"hf:{name}"), {key: int(value) for key, value in settings.items()}, batch=3
        )
        assert type(call.model).__name__ == (
            "BertModel" if name == "bert" else "BertForSequenceClassification"
        )
        assert {key: tuple(value.shape) for key, value in call.kwargs.items()} == {
            "input_ids": (3, 128),
            "attention_mask": (3, 128),
        }
        assert type(call.model(**call.kwargs)) is tuple

    def test_hugging_face_images(self) -> None:
        settings = {"num_hidden_layers": 1, "hidden_size": 24, "num_attention_heads": 2}
        call = models.load(models.find("hf:vit"), {**settings, "image_size": 32})
        assert call.kwargs["pixel_values"].shape == (1, 3, 32, 32)


BAD = {
    "no kind": ("explain bert", r"'bert' names no model: expected module:callable, timm:NAME"),
    "no name": ("explain timm:", r"'timm:' names no model"),
    "no module": ("explain nowhere:f", r"no model nowhere:f: 'nowhere' cannot be imported"),
    "no attribute": ("explain own_models:f", r"there is no 'f' in own_models"),
    "no callable": ("explain own_models:value", r"of type int is not callable"),
    "no model": ("explain own_models:number", r"returned \(int\): expected an nn\.Module"),
    "no inputs": ("explain own_models:strange", r"returned \(Linear, int\): expected"),
    "inputs unknown": ("explain own_models:alone", r"give --input SHAPE for each"),
    "callable fails": ("explain own_models:failing", r"failing\(\) failed with KeyError: "),
    "wrong setting": ("explain own_models:alone --set depth=3", r"alone\(depth=3\) failed with T"),
    "setting": ("explain own_models:alone --set depth", r"--set 'depth': expected NAME=VALUE"),
    "set a model": ("explain own_models:Zoo.linear --set a=3", r"is a model already.*no --set"),
    "timm name": ("explain timm:vit_tiny_patch", r"no model 'vit_tiny_patch': did you mean vit"),
    "hf name": ("explain hf:brt", r"transformers has no model 'brt'.*nothing is downloaded"),
    "hf inputs": ("explain hf:wav2vec2", r"takes 'input_values'.*give --input input_values=SHAPE"),
    "shape": (f"explain {BLOCKS} --input 2,24", r"--input '2,24' is no shape: expected"),
    "zero": (f"explain {BLOCKS} --input 0x24", r"--input '0x24' is no shape"),
    "dtype": (f"explain {BLOCKS} --input 2x4:flot", r"torch has no dtype 'flot'"),
    "twice": (f"explain {BLOCKS} --input x=2x4 --input x=2x4", r"--input x is given twice"),
    "misfit": (f"explain {BLOCKS} --input 2x24x9", r"does not run on 2x24x9:float32: RuntimeError"),
    "weights": (f"explain {BLOCKS} --input 2x24x24 --weights no.pt", r"no\.pt holds no state dict"),
    "option": (f"explain {BLOCKS} --ratio 2", r"ratio=2 is not allowed: expected a keep ratio"),
    "option type": (f"explain {BLOCKS} --r many", r"r='many' is not allowed"),
    "two amounts": (f"explain {BLOCKS} --r 2 --ratio 0.9", r"give at most one of ratio, r"),
    "suffix": (f"export {BLOCKS} --to onnx -o a.pt2", r"an ONNX model ends in \.onnx: a\.pt2"),
    "folder": (f"export {BLOCKS} --to ep -o no/a.pt2", r"there is no folder no to write a\.pt2"),
    "batch of 1": (
        f"export {BLOCKS} --input 1x24x24 --to ep --dynamic-batch",
        r"--dynamic-batch needs inputs whose first dimension is one batch of 2.*1x24x24:float32",
    ),
    "fixed batch": (
        "export own_models:fixed --to ep --dynamic-batch",
        r"code fixes the batch at 2: export it without --dynamic-batch",
    ),
    "strict": (
        "export own_models:with_tensor --to ep --strict",
        r"runs dense: no attention was found",
    ),
    "once more": ("export own_models:with_tensor --to ep -o .pt2", r"an ExportedProgram ends in"),
}


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_status_2(name: str, cli: Cli, tmp_path: Path) -> None:
    words, message = BAD[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        status, out, err = cli(*words.split())
    assert (status, out) == (2, "")
    assert err.startswith("python -m pitome_fx: error: ") and err.count("\n") == 1
    assert re.search(message, err), err
    assert not list(tmp_path.glob("*.pt2")), "nothing was written"


@pytest.mark.usefixtures("own")
def test_a_model_that_cannot_be_traced_ends_in_one_sentence(cli: Cli) -> None:
    status, _, err = cli("export", "own_models:untraceable", "--to", "ep")
    # torch prints the graph as far as it got before it gives up.
    last = err.splitlines()[-1]
    assert status == 2
    assert last.startswith("python -m pitome_fx: error: torch.export cannot trace the model: ")
    assert "data-dependent" in last


def test_argparse_errors_have_status_2_too(cli: Cli) -> None:
    for words in (["export", BLOCKS], ["export", BLOCKS, "--to", "tflite"], ["fly"], []):
        with pytest.raises(SystemExit) as ended:
            cli(*words)
        assert ended.value.code == 2


@pytest.mark.usefixtures("own")
def test_traceback_shows_where_an_error_comes_from(cli: Cli) -> None:
    _, _, err = cli("explain", "own_models:failing", "--traceback")
    assert "own_models.py" in err and "KeyError" in err


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
        assert (tmp_path / "with_kwargs.pt2").exists(), "named after the model"

    @pytest.mark.slow
    def test_as_a_process(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "pitome_fx", "export", *SMALL, "--ratio", "0.8"]
        command += ["--to", "pt2", "-o", str(tmp_path / "small.pt2")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "merged   1 block\n" in done.stdout
        x, call = torch.randn(2, 24, 24), small()
        with torch.no_grad():
            found = deploy.FORMATS["pt2"].load(tmp_path / "small.pt2")(x)
            assert_close(found, simulate(call.model, (x,), ratio=0.8), 1e-5)


class TestCheckOfTheFile:
    """A file that computes something else is noticed."""

    def compare(self, monkeypatch: pytest.MonkeyPatch, load: Callable[[Path], Any]) -> str:
        changed = dataclasses.replace(deploy.FORMATS["ep"], load=load)
        monkeypatch.setattr(deploy, "FORMATS", {"ep": changed})
        call = small()
        program: ExportedProgram = torch.export.export(call.model, call.args)
        return commands._compare(program, call, Path("small.pt2"), "ep")

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

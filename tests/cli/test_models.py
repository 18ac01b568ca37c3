"""How the command line finds a model and its inputs, and what it says of it."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import pitome_fx
from pitome_fx.cli import models
from pitome_fx.cli.shapes import InputSpec
from tests.cli.calls import BLOCKS, DEEPER, SMALL, TINY_BERT, Cli, small


class TestExplain:
    def test_prints_the_report(self, cli: Cli) -> None:
        status, out, err = cli("explain", *SMALL, "--ratio", "0.8")
        call = small()
        wanted = pitome_fx.explain(call.model, call.args, ratio=0.8)
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

    def test_a_folder_may_have_the_name_of_a_model_type(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "bert").mkdir()
        monkeypatch.chdir(tmp_path)
        settings = dict(item.split("=") for item in TINY_BERT)
        call = models.load(
            models.find("hf:bert"), {key: int(value) for key, value in settings.items()}
        )
        assert type(call.model).__name__ == "BertModel"

    def test_hugging_face_images(self) -> None:
        settings = {"num_hidden_layers": 1, "hidden_size": 24, "num_attention_heads": 2}
        call = models.load(models.find("hf:vit"), {**settings, "image_size": 32})
        assert call.kwargs["pixel_values"].shape == (1, 3, 32, 32)

"""bench and compare on the command line."""

import json
from pathlib import Path

import pytest
import torch

from tests.cli.calls import DEEPER, Cli

EAGER = ["--lowering", "eager", "--min-tokens", "4"]


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """A file of inputs with labels."""
    generator = torch.manual_seed(0)
    inputs = [torch.randn(3, 24, 24, generator=generator) for _ in range(2)]
    file = tmp_path / "pairs.pt"
    torch.save([(x, torch.tensor([0, 1, 2])) for x in inputs], file)
    return str(file)


def test_bench_times_several_sets_of_options(cli: Cli, tmp_path: Path) -> None:
    plot = tmp_path / "times.png"
    words = ["--ratio", "0.8", "--also", "ratio=0.6,lowering=eager,min_tokens=4", "--rounds", "1"]
    status, out, _ = cli("bench", *DEEPER, *EAGER, *words, "--json", "--plot", str(plot))
    assert status == 0
    found = json.loads(out)
    assert [run["options"].get("ratio") for run in found["runs"]] == [1.0, 0.8, 0.6]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_bench_prints_a_table(cli: Cli) -> None:
    status, out, _ = cli("bench", *DEEPER, *EAGER, "--rounds", "1")
    assert status == 0
    assert "speed-up" in out and "dense" in out and "2/2 merge" in out


def test_compare_prints_how_outputs_differ(cli: Cli, pairs: str) -> None:
    how = ["--data", pairs, "--ratio", "0.7", "--min-tokens", "4"]
    status, out, _ = cli("compare", *DEEPER, *how, "--no-labelled", "--json")
    assert status == 2 and not out, "labels are no second argument of this model"
    status, out, _ = cli("compare", *DEEPER, *how, "--json")
    found = json.loads(out)
    assert status == 0 and found["items"] == found["accuracy"]["labels"] == 6
    assert 0 < found["outputs"][0]["mean_change"] < found["outputs"][0]["largest_change"]
    status, out, _ = cli("compare", *DEEPER, *how)
    assert status == 0 and "Items that move most" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench", *DEEPER, "--also", "ratio"], "'ratio': expected NAME=VALUE"),
        (["bench", *DEEPER, "--also", "ratoi=0.9"], "ratoi"),
        (["bench", *DEEPER, "--rounds", "0"], "rounds=0"),
        (["bench", *DEEPER, "--also", "lowering=eager"], "benchmark each by itself"),
        (["bench", *DEEPER, "--ratio", "0.9", "--speedup", "2"], "more than once"),
        (["bench", *DEEPER, "--plot", "/nowhere/times.png", *EAGER], "/nowhere"),
        (["compare", *DEEPER, "--data", "nowhere.pt"], "nowhere.pt"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(cli: Cli, words: list[str], said: str) -> None:
    status, out, err = cli(*words)
    assert status == 2 and not out
    assert said in err and "Traceback" not in err

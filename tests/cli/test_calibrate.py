"""calibrate on the command line, and what reads its file."""

import json
from pathlib import Path

import pytest
import torch

from tests.cli.calls import BLOCKS, DEEPER, Cli

HOW = ["--algorithm", "tome", "--min-tokens", "4"]
LONG = [BLOCKS, "--set", "depth=2", "--input", "2x120x24"]
"""Of so many tokens that one more or less is no matter."""


@pytest.fixture
def images(tmp_path: Path) -> str:
    """A file of inputs."""
    torch.manual_seed(0)
    file = tmp_path / "images.pt"
    torch.save(torch.randn(4, 120, 24), file)
    return str(file)


def test_what_it_writes_is_what_the_other_commands_read(
    cli: Cli, images: str, tmp_path: Path
) -> None:
    file = tmp_path / "options.json"
    given = ["--data", images, "--keep", "0.8", *HOW, "-o", str(file)]
    status, out, _ = cli("calibrate", *LONG, *given)
    assert status == 0 and str(file) in out
    kept = json.loads(file.read_text())
    assert kept["algorithm"] == "tome" and kept["min_tokens"] == 4
    status, out, _ = cli("explain", *LONG, "--json", "--options", str(file))
    report = json.loads(out)
    assert status == 0
    assert report["flops_after"] <= 0.815 * report["flops_before"]


def test_what_is_given_beside_a_file_wins(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text(json.dumps({"schedule": [0.9, 0.8], "algorithm": "pitome", "min_tokens": 4}))
    _, kept, _ = cli("explain", *DEEPER, "--options", str(file))
    _, other, _ = cli("explain", *DEEPER, "--options", str(file), "--ratio", "0.75")
    _, wanted, _ = cli(
        "explain", *DEEPER, "--algorithm", "pitome", "--min-tokens", "4", "--ratio", "0.75"
    )
    assert other == wanted != kept


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "nowhere.pt"], "nowhere.pt"),
        (["--data", "own_models:number"], "expected a tensor"),
        (["--data", "own_models:nothing"], "no 'nothing'"),
        (["--data", "own_models:single"], "does not run on own_models:single"),
        (["--data", "own_models:single", "--options", "nowhere.json"], "nowhere.json"),
    ],
)
@pytest.mark.usefixtures("own")
def test_bad_data_is_named(cli: Cli, words: list[str], said: str) -> None:
    status, _, err = cli("calibrate", *DEEPER, *words)
    assert status == 2
    assert said in err and "Traceback" not in err

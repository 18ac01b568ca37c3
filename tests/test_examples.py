"""Every example runs, in small, and prints what its docstring promises."""

import importlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import torch

from examples.digits_vit import ViTConfig
from tests.support import notebook

FOLDER = Path(__file__).resolve().parents[1] / "examples"
SMALL = ViTConfig(image=32, patch=4, channels=1, width=24, depth=3, heads=2, classes=5)
DIGITS = ViTConfig(image=32, patch=8, channels=1, width=48, depth=4, heads=3, classes=10)
SMALLEST = ViTConfig(image=16, patch=4, channels=1, width=16, depth=1, heads=2, classes=5)
HELPERS = {"__init__", "digits_vit", "token_map"}
DEMO = {"demo"}

Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs an example's main and returns what it printed."""

    def call(name: str, *args: object, **kwargs: object) -> str:
        importlib.import_module(f"examples.{name}").main(*args, **kwargs)
        return capsys.readouterr().out

    return call


def numbers(pattern: str, text: str) -> list[float]:
    """What the group of the pattern matches, as numbers."""
    return [float(found) for found in re.findall(pattern, text)]


def test_quickstart(run: Run) -> None:
    text = run("quickstart", "eager", SMALL, rounds=1)
    assert "3 of 3 attention sites merge" in text
    assert "outputs: [4, 5], as the dense model's [4, 5]" in text
    assert numbers(r"moved them by ([\d.]+)%", text)[0] > 0
    assert numbers(r"speed-up ([\d.]+)", text)[0] > 0


@pytest.mark.slow
def test_to_onnx(run: Run) -> None:
    text = run("to_onnx", SMALLEST, rounds=1)
    errors = numbers(r"differs from PyTorch by (\S+) of", text)
    assert len(errors) == 2 and max(errors) < 1e-4
    assert numbers(r"speed-up ([\d.]+)", text)[0] > 0


@pytest.mark.slow
def test_to_aotinductor(capfd: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("examples.to_aotinductor").main(SMALLEST)
    text = capfd.readouterr().out
    assert "in a process that cannot import pitome_fx" in text
    assert numbers(r"differs from PyTorch by (\S+) of", text)[0] < 1e-4


def test_to_tensorrt_says_what_is_missing_or_runs(run: Run) -> None:
    text = run("to_tensorrt", SMALLEST)
    if torch.cuda.is_available() and importlib.util.find_spec("torch_tensorrt"):
        assert numbers(r"differs from PyTorch by (\S+) of", text)[0] < 1e-2
    else:
        assert text.startswith("TensorRT cannot run here: ") and text.count("\n") == 1


@pytest.mark.slow
def test_retraining_recovers_accuracy(run: Run) -> None:
    text = run("retrain", DIGITS, epochs=3, more=1)
    dense, shelf, control, retrained = numbers(r": ([\d.]+)%", text)
    assert dense > 80
    assert shelf < dense
    assert retrained > max(shelf, control)


def test_bert_padding(run: Run) -> None:
    text = run("bert_padding", layers=2)
    assert "2 of 2 attention sites merge" in text
    assert numbers(r"(\d+) mix padding and text", text) == [0, 0]
    assert "change the logits by 0.0e+00" in text
    assert numbers(r"moves them by ([\d.]+)%", text)[0] > 0


def test_dense_prediction(run: Run) -> None:
    text = run("dense_prediction", steps=60, depth=2, ratios=(1.0, 0.8))
    assert "Unmerged at: " in text
    assert text.count("answers [360, 8, 8]") == 2
    dense, *merged = numbers(r"([\d.]+)% of patches right", text)
    background = numbers(r"always 'background': ([\d.]+)%", text)[0]
    assert dense > background + 10 and min(merged) > background + 10


def test_pictures(run: Run, tmp_path: Path) -> None:
    text = run("pictures", tmp_path, grid=(6, 9))
    assert "flower.jpg through " in text and "55 → " in text
    written = {file.name for file in tmp_path.iterdir()}
    assert written == {"tokens.png", "energy.png", "sizes.png", "flow.png"}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in tmp_path.iterdir())


def test_llava(run: Run) -> None:
    text = run("llava", width=64, layers=2, rounds=1)
    assert "Groups(139 of 576 tokens" in text and "prompt of 601 → 164 tokens" in text
    assert "lifted, the image tokens are those of dense outputs: True" in text
    read, merged, other = numbers(r"changes \w+(?: logits)? by (\S+)", text)
    assert read < 1e-5 < merged < other
    assert numbers(r"speed-up ([\d.]+)", text)[0] > 0


@pytest.mark.slow
def test_tour_shows_what_it_was_committed_with() -> None:
    file = FOLDER / "tour.ipynb"
    committed, ran = nbformat.read(file, as_version=4), notebook.run(file)
    steps = list(zip(committed.cells, ran.cells, strict=True))
    assert [before.source for before, _ in steps] == [after.source for _, after in steps]
    for before, after in ((b, a) for b, a in steps if b.cell_type == "code"):
        if notebook.is_timed(before):
            assert not before.outputs and "speed-up" in notebook.text_of(after)
        else:
            wanted, found = (notebook.without_numbers(notebook.text_of(c)) for c in (before, after))
            assert wanted == found, "python -m tests.support.notebook writes it anew"
    text = "".join(notebook.text_of(cell) for cell, _ in steps if cell.cell_type == "code")
    assert "197 → 168" in text and "4 of 4 attention sites merge" in text
    assert file.stat().st_size < 200_000


def test_every_example_is_run_here_and_listed_in_the_readme() -> None:
    files = (file for file in FOLDER.iterdir() if file.suffix in (".py", ".ipynb"))
    examples = {file.stem for file in files} - HELPERS
    started = r'(?:run\("|examples\.|FOLDER / ")(\w+)(?:\.ipynb)?"'
    called = set(re.findall(started, Path(__file__).read_text()))
    assert examples - DEMO == called - HELPERS
    readme = (FOLDER.parent / "README.md").read_text()
    assert examples == set(re.findall(r"\(examples/(\w+)\.(?:py|ipynb)\)", readme))

"""Every warning that something failed names a file that shows the same error in a new process."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends import registry
from torch.fx import GraphModule
from torch.utils.checkpoint import checkpoint

from pitome_fx import ALGORITHMS, Options
from pitome_fx.backends import failed, reproducer
from pitome_fx.backends.lowering import Job
from tests.support.blocks import Block, by_hand, sdpa
from tests.support.compiled import compiled, told
from tests.support.models import Case
from tests.support.oracle import assert_equal
from tests.support.subclasses import Wrapper, with_weights

PLUGIN = """
import torch
from pitome_fx import Match, register
from pitome_fx.errors import LoweringError

calls = []


@register("loses-tokens")
def loses_tokens(tokens):
    raise IndexError(f"no partner for token {tokens.k}")


@register("fails-at-first")
def fails_at_first(tokens):
    calls.append(tokens.k)
    if len(calls) < 3:
        raise IndexError("not yet")
    order = torch.arange(tokens.metric.shape[1]).expand(tokens.metric.shape[0], -1)
    moved, kept = order[:, : tokens.k], order[:, tokens.k :]
    return Match(kept, moved, torch.zeros_like(moved))


@torch._dynamo.register_backend
def no_merging(graph, inputs, options=None):
    if any("pitome" in str(node.target) for node in graph.graph.nodes):
        raise LoweringError("this engine merges no tokens")
    return graph.forward
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files go; those of other tests are forgotten."""
    monkeypatch.setenv("PITOME_FX_REPRODUCERS", str(tmp_path / "files"))
    monkeypatch.setattr(failed, "_WRITTEN", {})
    return tmp_path / "files"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of a user's own, beside a script: only there Python finds it."""
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "my_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path / "script")
    importlib.import_module("my_plugin")
    yield "my_plugin"
    del sys.modules["my_plugin"], ALGORITHMS["loses-tokens"], ALGORITHMS["fails-at-first"]
    del registry._BACKENDS["no_merging"], registry._COMPILER_FNS["no_merging"]


def warned(model: Any, *args: Any, **options: Any) -> tuple[str, Path]:
    """What is said when the model runs, dense, and the file that it names."""
    torch._dynamo.reset()
    with told() as messages:
        output = compiled(model, **{"ratio": 0.75, "strict": False, **options})(*args)
    if not options.get("regions"):
        assert_equal(output, model(*args))
    (message,) = messages
    named = re.search(r" To see the error again: python (\S+\.py)$", message)
    assert named, message
    return message, Path(named[1])


def run(file: Path) -> tuple[int, str]:
    """Exit status and errors of a new process."""
    done = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, cwd=file.parent, timeout=120
    )
    return done.returncode, done.stderr


def rerun(file: Path) -> str:
    """What the file raises when it is run in this process."""
    torch._dynamo.reset()
    with (
        pytest.warns(UserWarning, match="generating random data") as _,
        pytest.raises(Exception) as failure,
    ):
        runpy.run_path(str(file))["main"]()
    return str(failure.value)


class Narrow(nn.Module):
    """Returns a dtype that cannot be unmerged, which shows when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block(24, 3, sdpa)
        self.register_buffer("shift", torch.randn(24))
        self.register_buffer("order", torch.arange(24))

    def forward(self, x: Tensor, scale: Any = 1.0, *more: Tensor) -> Tensor:
        x = x * scale + self.shift[self.order] + torch.tensor([0.5, 0.25]).repeat(12)
        return self.block(x).to(torch.float8_e4m3fn)


FAILURES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "pass": (
        {"algorithm": "loses-tokens", "form": "aten"},
        ["PassError: the pass failed while writing its ops in ATen", "IndexError: no partner"],
    ),
    "lowering": ({"lowering": "no_merging"}, ["LoweringError: this engine merges no tokens"]),
    "first_run": ({"algorithm": "loses-tokens"}, ["IndexError: no partner for token 6"]),
    "regions": (
        {"algorithm": "fails-at-first", "lowering": "inductor", "form": "pitome", "regions": True},
        ["PitomeWarning: pitome: regions=True", "compiling a region failed (", "not yet"],
    ),
}


SLOW = [pytest.param("regions", marks=pytest.mark.slow)]


@pytest.mark.parametrize("failure", ["pass", "lowering", "first_run", *SLOW])
def test_a_new_process_shows_the_same_error(folder: Path, plugin: str, failure: str) -> None:
    options, expected = FAILURES[failure]
    case = by_hand(depth=2, pool="none")
    with torch.no_grad():
        message, file = warned(case.model, *case.args, **options)
    assert file.parent == folder and file.name.startswith(f"{failure}_")
    status, errors = run(file)
    assert status == 1
    for words in expected:
        assert words in errors
        assert words.partition(": ")[2] in message


class TestGraphs:
    """What a graph may be made of."""

    def fails_again(self, model: nn.Module, *args: Any, **options: Any) -> str:
        message, file = warned(model, *args, **options)
        assert "Float8_e4m3fn" in message
        assert "Float8_e4m3fn" in rerun(file)
        return file.read_text()

    def test_parameters_buffers_and_constants(self, folder: Path) -> None:
        text = self.fails_again(Narrow().eval(), torch.randn(2, 24, 24))
        assert "for i in []" not in text, "there are parameters, and buffers"
        assert "torch.tensor([0.5, 0.25])" in text

    def test_numbers(self, folder: Path) -> None:
        self.fails_again(Narrow().eval(), torch.randn(2, 24, 24), 3)

    def test_tensors_that_share_memory(self, folder: Path) -> None:
        x = torch.randn(5, 24, 24)
        text = self.fails_again(Narrow().eval(), x[1:], x[0, 0])
        assert text.count(f"reader.storage(None, {x.numel() * 4}") == 1
        assert f"storage_offset={x[0].numel()}" in text

    @pytest.mark.parametrize("number", [1.5, 3])
    def test_any_batch(self, folder: Path, number: float) -> None:
        """A size that is an input of its own stays the size of that tensor."""

        class Any(Narrow):
            def forward(self, x: Tensor, scale: Any) -> Tensor:
                x = x.reshape(-1, 24)[: x.shape[0] * 24].view(x.shape[0], 24, 24)
                return super().forward(x, scale)

        model, x = Any().eval(), torch.randn(3, 24, 24)
        torch._dynamo.mark_dynamic(x, 0)
        with told() as messages:
            compiled(model, ratio=0.75, strict=False)(x, number)
        (message,) = messages
        file = Path(message.rpartition(" ")[2])
        text = file.read_text()
        assert re.search(r" = L_x_\.size\(0\)", text, re.IGNORECASE)
        assert "dynamic=True" in text and "{0: [1, 2]" in text
        assert "Float8_e4m3fn" in rerun(file)

    def test_training_under_autocast(self, folder: Path) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            text = self.fails_again(Narrow().train(), torch.randn(2, 24, 24))
        assert "set_grad_enabled(True), torch.autocast('cpu', torch.bfloat16)" in text

    def test_autocast_and_checkpoints_inside(self, folder: Path) -> None:
        class Inside(Narrow):
            def forward(self, x: Tensor) -> Tensor:
                with torch.autocast("cpu", torch.bfloat16):
                    x = checkpoint(self.block, x, use_reentrant=False)
                with torch.no_grad():
                    x = x + self.shift
                return super().forward(x.float())

        with torch.no_grad():
            text = self.fails_again(Inside().eval(), torch.randn(2, 24, 24))
        assert "class Repro_wrap_body_0(" in text

    def test_holds_no_weights_and_no_inputs(self, folder: Path) -> None:
        model, x = Narrow().eval(), torch.randn(2, 24, 24)
        with torch.no_grad():
            for tensor in (*model.parameters(), model.shift, x):
                tensor.fill_(0.123456)
        text = self.fails_again(model, x)
        assert "0.1234" not in text
        assert [path.suffix for path in folder.iterdir()] == [".py"]


class TestFiles:
    def test_one_for_each_failure(self, folder: Path, plugin: str) -> None:
        """However many graphs it meets, in this process and in the next."""
        x = torch.randn(2, 24, 24)
        first = [warned(Narrow().eval(), x)[1] for _ in range(2)]
        case = by_hand(depth=1)
        other = warned(case.model, *case.args, algorithm="loses-tokens")[1]
        failed._WRITTEN.clear()
        again = warned(Narrow().eval(), x)[1]
        assert first[0] == first[1] == again != other
        assert sorted(folder.iterdir()) == sorted([again, other])

    def test_no_more_than_a_few(
        self, folder: Path, plugin: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(failed, "MOST", 1)
        warned(Narrow().eval(), torch.randn(2, 24, 24))
        case = by_hand(depth=1)
        with told() as messages:
            compiled(case.model, ratio=0.75, algorithm="loses-tokens", strict=False)(*case.args)
        assert "No file that reproduces it could be written: there are 1 of this" in messages[0]
        assert len(list(folder.iterdir())) == 1

    def test_none_where_the_environment_says_so(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PITOME_FX_REPRODUCERS", "off")
        with told() as messages:
            compiled(Narrow().eval(), ratio=0.75, strict=False)(torch.randn(2, 24, 24))
        assert messages[0].endswith("shows it).")

    def test_in_the_temporary_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PITOME_FX_REPRODUCERS")
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setattr(failed, "_WRITTEN", {})
        _, file = warned(Narrow().eval(), torch.randn(2, 24, 24))
        assert file.parent.parent == tmp_path and file.parent.name.startswith("pitome_fx_failures")


class TestNotWritten:
    """The warning says why, and the model runs dense."""

    def says(self, reason: str, model: nn.Module, *args: Any, **options: Any) -> None:
        options = {"ratio": 0.75, "strict": False, **options}
        with told() as messages:
            output = compiled(model, **options)(*args)
        assert_equal(output, model(*args))
        (message,) = messages
        assert re.search(f"No file that reproduces it could be written: {reason}", message)

    def test_no_folder(self, folder: Path) -> None:
        folder.write_text("a file")
        self.says("FileExistsError", Narrow().eval(), torch.randn(2, 24, 24))

    def test_an_algorithm_of_the_script_itself(
        self, folder: Path, plugin: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ALGORITHMS["loses-tokens"].match, "__module__", "__main__")
        case: Case = by_hand(depth=1)
        reason = "what it needs is registered by the script itself"
        self.says(reason, case.model, *case.args, algorithm="loses-tokens")

    def test_an_option_that_is_no_literal(self, folder: Path, plugin: str) -> None:
        case, options = by_hand(depth=2), {"lowering_options": {"hook": print}}
        reason = "its options cannot be written out: .*built-in function print"
        self.says(reason, case.model, *case.args, lowering="no_merging", **options)

    def test_weights_of_another_kind(self, folder: Path) -> None:
        model = with_weights(Narrow().eval(), Wrapper.of)
        self.says("its input L_self_.* is a Wrapper", model, torch.randn(2, 24, 24))


def test_a_mode_is_an_option_of_the_lowering() -> None:
    """torch.compile takes the one or the other."""
    found: list[str] = []

    def backend(graph: GraphModule, inputs: Any) -> Any:
        job = Job(graph, inputs, Options(ratio=0.9), "max-autotune", merged=False)
        found.append(reproducer.source("pass", job, "said"))
        return graph.forward

    torch.compile(nn.Linear(3, 3), backend=backend)(torch.randn(2, 3))
    assert "'lowering_options': {'mode': 'max-autotune'}" in found[0]

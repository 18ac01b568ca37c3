"""``TORCH_LOGS="+pitome_fx"``: a line for each stage of each graph, with its time."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pitome_fx
from tests.support.blocks import Block, by_hand, sdpa
from tests.support.compiled import compiled, output_of

LINE = re.compile(r"^(\w+) +(\d+\.\d\d) s  (.+)$", re.MULTILINE)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Stages, and what is said of each."""
    messages = "\n".join(record.getMessage() for record in caplog.records)
    return [(stage, text) for stage, _, text in LINE.findall(messages)]


def test_each_stage_says_what_came_of_it(caplog: pytest.LogCaptureFixture) -> None:
    case = by_hand(depth=3)
    with caplog.at_level(logging.INFO, "pitome_fx"):
        output_of(case, ratio=0.75)
    found = dict(lines(caplog))
    assert list(found) == ["capture", "detect", "plan", "rewrite", "dissolve", "lower"]
    nodes = [int(found[stage].removesuffix(" nodes")) for stage in ("capture", "dissolve")]
    assert nodes[1] > nodes[0] > 50
    assert found["detect"] == "3 sites, 3 of which may merge"
    assert found["plan"] == "3 merges planned"
    assert found["rewrite"] == "3 merges, 0 lifts"
    assert found["lower"] == "the merged graph by eager"


def test_each_graph_has_its_lines(caplog: pytest.LogCaptureFixture) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.tail = Block(24, 3, sdpa), nn.Linear(24, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.block(x)
            torch._dynamo.graph_break()
            return self.tail(x).relu()

    with caplog.at_level(logging.INFO, "pitome_fx"), torch.no_grad():
        compiled(Two().eval(), ratio=0.75)(torch.randn(2, 24, 24))
    found = lines(caplog)
    assert [text for stage, text in found if stage == "rewrite"] == [
        "1 merges, 1 lifts",
        "nothing merges",
    ]
    lowered = [text for stage, text in found if stage == "lower"]
    assert lowered == ["the merged graph by eager", "the dense graph by eager"]


def test_transform_and_explain_say_the_same(caplog: pytest.LogCaptureFixture) -> None:
    case = by_hand(depth=1)
    stages = ["capture", "detect", "plan", "rewrite", "dissolve"]
    with caplog.at_level(logging.INFO, "pitome_fx"):
        pitome_fx.transform(case.model, case.args, ratio=0.75)
        assert [stage for stage, _ in lines(caplog)] == stages
        pitome_fx.explain(case.model, case.args, ratio=0.75)
    assert [stage for stage, _ in lines(caplog)] == [*stages, *stages]


SCRIPT = """
import torch
from tests.support.blocks import by_hand

case = by_hand(depth=1)
options = {"ratio": 0.75, "lowering": "eager"}
with torch.no_grad():
    torch.compile(case.model, backend="pitome", options=options)(*case.args)
"""


def test_torch_logs_shows_them(tmp_path: Path) -> None:
    """With the compile that each is of; graphs only if asked for with a plus."""
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "TORCH_LOGS": "+pitome_fx", "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    shown = re.findall(r"\[0/0\] (\w+) +\d+\.\d\d s  ", done.stderr)
    assert shown == ["capture", "detect", "plan", "rewrite", "dissolve", "lower"]
    assert "torch.ops.pitome.match.default" in done.stderr

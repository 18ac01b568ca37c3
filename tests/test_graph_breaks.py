"""A graph break inside a block is told as what it is, with its line, and cross-attention is not."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.models import Case, randomised
from tests.support.oracle import explained

HERE = __file__


class Attend(nn.Module):
    """Of x to ``memory``, itself as a rule; breaks the graph at a place of the given name."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at
        self.q, self.kv, self.proj = nn.Linear(24, 24), nn.Linear(24, 48), nn.Linear(24, 24)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        if self.at == "start":
            torch._dynamo.graph_break()  # start
        q = self.q(x).unflatten(-1, (3, 8)).transpose(1, 2)
        if self.at == "queries":
            torch._dynamo.graph_break()  # queries
        k, v = self.kv(memory).unflatten(-1, (6, 8)).transpose(1, 2).chunk(2, 1)
        if self.at == "keys":
            torch._dynamo.graph_break()  # keys
        x = F.scaled_dot_product_attention(q, k, v)
        if self.at == "attended":
            torch._dynamo.graph_break()  # attended
        x = self.proj(x.transpose(1, 2).flatten(2))
        if self.at == "end":
            torch._dynamo.graph_break()  # end
        return x


class Layer(nn.Module):
    """A pre-norm or post-norm block."""

    def __init__(self, at: str, post_norm: bool) -> None:
        super().__init__()
        self.at, self.post_norm = at, post_norm
        self.attend = Attend(at)
        self.norm1, self.norm2 = nn.LayerNorm(24), nn.LayerNorm(24)
        self.mlp = nn.Sequential(nn.Linear(24, 192), nn.GELU(), nn.Linear(192, 24))

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        if self.at == "before":
            torch._dynamo.graph_break()
        h = x if self.post_norm else self.norm1(x)
        if self.at == "normed":
            torch._dynamo.graph_break()  # normed
        a = self.attend(h, h if memory is None else memory)
        if self.at == "proposed":
            torch._dynamo.graph_break()  # proposed
        x = x + a
        if self.at == "joined":
            torch._dynamo.graph_break()
        if self.post_norm:
            x = self.norm1(x)
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    """A layer with a break between two without one."""

    def __init__(self, at: str, post_norm: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(name, post_norm) for name in ("", at, ""))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def reasons(model: nn.Module, *inputs: Tensor) -> list[str]:
    report = explained(Case(randomised(model), inputs), ratio=0.75)
    return [str(block.reason) for block in report.blocks if not block.merged]


def line_of(at: str) -> int:
    lines = inspect.getsource(inspect.getmodule(Attend)).splitlines()
    (line,) = (i for i, text in enumerate(lines, 1) if text.endswith(f"graph_break()  # {at}"))
    return line


@pytest.mark.parametrize("post_norm", [False, True], ids=["pre-norm", "post-norm"])
@pytest.mark.parametrize(
    "at, seen",
    [
        ("start", "begins after {}"),
        ("queries", "begins after {}"),
        ("keys", "begins after {}"),
        ("attended", "ends at {}"),
        ("end", "ends at {}"),
        ("proposed", "ends at {}"),
    ],
)
def test_a_break_inside_a_block_is_said(at: str, seen: str, post_norm: bool) -> None:
    (reason,) = reasons(Model(at, post_norm), torch.randn(2, 16, 24))
    assert reason.startswith("a graph break inside this block")
    assert seen.format(f"{HERE}:{line_of(at)}") in reason
    assert "TORCH_LOGS" in reason


def test_a_stream_that_comes_in_beside_the_tokens_is_cut_off_too() -> None:
    (reason,) = reasons(Model("normed"), torch.randn(2, 16, 24))
    assert f"begins after {HERE}:{line_of('normed')}, so its residual stream comes in" in reason


@pytest.mark.parametrize("at", ["before", "joined"])
def test_a_break_between_the_parts_of_a_block_is_no_reason(at: str) -> None:
    found = reasons(Model(at), torch.randn(2, 16, 24))
    # What is merged last in a graph is unmerged at its end.
    assert [reason.split(":")[0] for reason in found] == ["not profitable"] * (at == "joined")


@pytest.mark.parametrize("at", ["", "before", "joined"])
def test_cross_attention_keeps_its_reason(at: str) -> None:
    memory = torch.randn(2, 16, 24)
    for reason in reasons(Layer(at, False), torch.randn(2, 16, 24), memory):
        assert reason.startswith("cross-attention")


@pytest.mark.parametrize("at", ["", "normed"])
def test_without_a_residual_there_is_none_to_be_cut_off(at: str) -> None:
    class Bare(Layer):
        def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
            h = self.norm1(x)
            if self.at == "normed":
                torch._dynamo.graph_break()
            return self.mlp(self.attend(h, h)).mean(1)

    (reason,) = reasons(Bare(at, False), torch.randn(2, 16, 24))
    assert reason.startswith("no residual connection carries these tokens past the attention")

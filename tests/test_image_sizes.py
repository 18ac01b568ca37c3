"""Image sizes that change: whatever a model computes from them, one graph serves them all."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn import functional as F
from torch.utils._sympy.functions import CeilToInt, IntTrueDiv

import pitome_fx
from pitome_fx import PitomeWarning
from pitome_fx.options import Options
from pitome_fx.passes.tokens.whole import without_floats
from pitome_fx.testing import run_recorded, simulate
from tests.support.models import Case, randomised
from tests.support.oracle import assert_close, assert_same_form
from tests.zoo.check import Beside

Embed = Callable[["Images", Tensor], Tensor]
SIZES = ((48, 56), (64, 72), (64, 64))


class Images(nn.Module):
    """Two blocks on the patches of an image; ``embed`` makes them, with positions.

    Args:
        class_token: without one the tokens are a grid of sizes of its own.
    """

    def __init__(self, embed: Embed, class_token: bool) -> None:
        super().__init__()
        self.embed = embed
        self.patches = nn.Conv2d(3, 24, 8, 8)
        self.positions = nn.Parameter(torch.randn(1, 24, 6, 6))
        self.cls = nn.Parameter(torch.randn(1, 1, 24)) if class_token else None
        self.qkv = nn.ModuleList(nn.Linear(24, 72) for _ in range(2))
        self.mlp = nn.ModuleList(nn.Linear(24, 24) for _ in range(2))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(self, image)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        for qkv, mlp in zip(self.qkv, self.mlp, strict=True):
            q, k, v = qkv(x).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
            x = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + mlp(x).relu()
        return x.mean(1), x


def tokens(grid: Tensor) -> Tensor:
    return grid.flatten(2).transpose(1, 2)


def resized(m: Images, height: Any, width: Any) -> Tensor:
    """The positions at another grid."""
    return F.interpolate(m.positions, size=(height, width), mode="bilinear")


def whole_numbers(m: Images, x: Tensor) -> Tensor:
    """As transformers' DINOv2."""
    height, width = x.shape[-2:]
    return tokens(m.patches(x) + resized(m, height // 8, width // 8))


def of_floats(m: Images, x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    return tokens(m.patches(x)) + tokens(resized(m, int(height / 8), int(width / 8)))


def by_a_factor(m: Images, x: Tensor) -> Tensor:
    """As the DINOv2 of its authors. PyTorch has a graph for each factor."""
    height, width = x.shape[-2:]
    factor = ((height // 8 + 0.1) / 6, (width // 8 + 0.1) / 6)
    positions = F.interpolate(m.positions, scale_factor=factor, mode="bilinear")
    return tokens(m.patches(x)) + tokens(positions)


def rounded_up(m: Images, x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    x = F.pad(x, (0, -width % 8, 0, -height % 8))
    return tokens(m.patches(x) + resized(m, math.ceil(height / 8), math.ceil(width / 8)))


def from_halves(m: Images, x: Tensor) -> Tensor:
    """The middle of each patch as DINOv3 has it: ⌈H − 0.5⌉ of them."""
    grid = m.patches(x)
    y, z = (torch.arange(0.5, size, dtype=x.dtype) / size for size in grid.shape[-2:])
    middles = torch.stack(torch.meshgrid(y, z, indexing="ij"), -1).flatten(0, 1)
    return tokens(grid) + middles.sin().repeat(1, 12)


def at_least(m: Images, x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    size = (torch.sym_max(height // 8, 6), torch.sym_min(width // 8, 9))
    return tokens(F.interpolate(m.patches(x), size=size, mode="nearest"))


def reshaped(m: Images, x: Tensor) -> Tensor:
    """Patches without a convolution."""
    batch, _, height, width = x.shape
    x = x.reshape(batch, 3, height // 8, 8, width // 8, 8).permute(0, 2, 4, 1, 3, 5)
    x = x.reshape(batch, (height // 8) * (width // 8), 192)
    return F.linear(x, m.patches.weight.flatten(1))


EMBEDDINGS = (whole_numbers, of_floats, by_a_factor, rounded_up, from_halves, at_least, reshaped)


def case(embed: Embed, class_token: bool = True) -> Case:
    model = randomised(Images(embed, class_token))
    return Case(model, (torch.randn(2, 3, *SIZES[0]),)).to(torch.float64)


@pytest.mark.parametrize("class_token", [True, False], ids=["class token", "grid alone"])
@pytest.mark.parametrize("embed", EMBEDDINGS)
def test_the_law_holds_at_every_size(embed: Embed, class_token: bool) -> None:
    made = case(embed, class_token)
    torch._dynamo.reset()
    beside = Beside(Options.parse({"ratio": 0.8}))
    merged = torch.compile(made.model, backend=beside, dynamic=True)
    with torch.no_grad():
        for size in SIZES:
            x = torch.randn(2, 3, *size, dtype=torch.float64)
            assert_same_form(merged(x), made.model(x))
    assert [len(outcome.plan.merges) for outcome in beside.outcomes] == [2] * len(beside.outcomes)
    assert len(beside.outcomes) == (len(SIZES) if embed is by_a_factor else 1)
    assert beside.error <= 1e-9


def test_sizes_that_are_multiples() -> None:
    """The range that torch.export asks for: sizes that patches divide."""
    made = case(whole_numbers)
    height, width = (8 * torch.export.Dim(name, min=3, max=32) for name in ("h", "w"))
    shapes = ({2: height, 3: width},)
    program = torch.export.export(made.model, made.args, dynamic_shapes=shapes)
    merged = pitome_fx.transform(program, ratio=0.8, strict=True)
    assert isinstance(merged, torch.export.ExportedProgram)
    for size in SIZES:
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            output, _ = run_recorded(merged.module(), x)
            assert_close(output, simulate(program, (x,), ratio=0.8), 1e-9)


def dropped(m: Images, x: Tensor) -> Tensor:
    """Tokens are dropped by their values."""
    grid = tokens(m.patches(x))
    return grid[:, (grid.abs().sum((0, 2)) > 0).nonzero().squeeze(1)]


def test_a_number_of_tokens_that_values_decide_is_refused() -> None:
    made = case(dropped)
    program = torch.export.export(made.model, made.args)
    with pytest.warns(PitomeWarning, match="depends on values of the inputs"):
        same = pitome_fx.transform(program, ratio=0.8)
    assert same is program


def test_a_quotient_rounded_up_has_no_negative_operand() -> None:
    """Engines divide integers towards zero, and would have other sizes."""
    n = sympy.Symbol("n", positive=True, integer=True)
    size = ShapeEnv().create_symintnode(CeilToInt(IntTrueDiv(n, sympy.Integer(2))), hint=4)
    found = without_floats(size).node.expr
    assert not any(term.could_extract_minus_sign() for term in found.atoms(sympy.Mul, sympy.Number))
    assert [found.subs(n, i) for i in range(1, 10)] == [math.ceil(i / 2) for i in range(1, 10)]

"""Region by region the same comes out as of the whole graph."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pitome_fx.backends.calls import Step, program
from pitome_fx.passes.regions.atoms import in_order
from pitome_fx.passes.regions.cutting import Cut
from pitome_fx.passes.regions.joining import join
from pitome_fx.passes.regions.structure import region_of
from tests.support.blocks import BY_HAND, by_hand
from tests.support.models import HUGGING_FACE, TIMM, TORCH, Case
from tests.support.oracle import tensors
from tests.support.regions import NAME, by_regions, run

MODELS = {
    **{name: BY_HAND[name] for name in ("sdpa", "matmul-bias", "sdpa-all-tokens")},
    **{name: TORCH[name] for name in ("encoder", "encoder-padded-sequence-first")},
    **{name: TIMM[name] for name in ("vit", "vit-mean-pool", "vit-parallel", "eva02")},
    **{name: HUGGING_FACE[name] for name in ("bert", "hf-vit")},
}


class TestTheWholeGraph:
    """Region by region the same comes out, to the last bit where nothing is compiled."""

    @pytest.mark.parametrize("name", MODELS)
    def test_outputs_and_gradients_are_equal(self, name: str) -> None:
        case = MODELS[name]().to(torch.float64)
        whole = run(case, "eager")
        with by_regions() as cuts:
            parts = run(case, NAME)
        (cut,) = cuts
        assert isinstance(cut, Cut) and len(cut.kinds) < len(cut.regions)
        parameters = list(case.model.parameters())
        grads = [
            torch.autograd.grad(
                sum(x.sum() for x in tensors(found) if x.is_floating_point()),
                parameters,
                allow_unused=True,
            )
            for found in (whole, parts)
        ]
        for a, b in zip((*tensors(whole), *grads[0]), (*tensors(parts), *grads[1]), strict=True):
            assert (a is None) == (b is None)
            assert a is None or (torch.equal(a, b) and a.stride() == b.stride())

    @pytest.mark.parametrize("blocks", [(0, 2, 4), (0, 1), (3, 4, 5)])
    def test_also_where_only_some_blocks_merge(self, blocks: tuple[int, ...]) -> None:
        case = by_hand(pool="none", depth=6).to(torch.float64)
        with torch.no_grad():
            whole = run(case, "eager", blocks=blocks)
            with by_regions(partial(join, most_calls=100)) as cuts:
                parts = run(case, NAME, blocks=blocks)
        (cut,) = cuts
        assert isinstance(cut, Cut) and len(cut.kinds) < len(cut.regions)
        assert torch.equal(whole, parts)

    def test_what_one_block_alone_hands_out(self) -> None:
        class Tapped(nn.Module):
            """Returns what one of its MLPs computes inside."""

            def __init__(self) -> None:
                super().__init__()
                self.qkv = nn.ModuleList(nn.Linear(24, 72) for _ in range(4))
                self.out = nn.ModuleList(nn.Linear(24, 24) for _ in range(4))

            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                inside = []
                for qkv, out in zip(self.qkv, self.out, strict=True):
                    q, k, v = qkv(x).view(2, -1, 3, 4, 6).permute(2, 0, 3, 1, 4)
                    y = nn.functional.scaled_dot_product_attention(q, k, v)
                    x = x + y.transpose(1, 2).flatten(2)
                    inside.append(out(x))
                    x = x + inside[-1].tanh()
                return x, inside[2] * 2

        case = Case(Tapped().eval(), (torch.randn(2, 25, 24),)).to(torch.float64)
        with torch.no_grad(), by_regions() as cuts:
            whole, parts = run(case, "eager"), run(case, NAME)
        assert isinstance(cuts[0], Cut)
        assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))

    def test_values_are_freed_after_their_last_use(self) -> None:
        """Each region adds one to a value that the next alone reads."""
        graph = make_fx(lambda x: (x + 1) * 2 - 3 + 4, tracing_mode="fake")(torch.randn(3))
        results: list[Any] = []
        alive: list[int] = []

        def watched(x: Tensor) -> tuple[Tensor]:
            alive.append(sum(result() is not None for result in results))
            y = x + 1
            results.append(weakref.ref(y))
            return (y,)

        regions = [region_of([node]) for node in in_order(graph)]
        output = program(graph, [Step(watched, (), own) for own in regions])(torch.zeros(3))
        assert output.tolist() == [4.0] * 3
        assert alive == [0, 1, 1, 1]

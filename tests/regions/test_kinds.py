"""What makes regions alike, and how many there are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pitome_fx.passes.regions.atoms import atoms
from pitome_fx.passes.regions.joining import join
from pitome_fx.passes.regions.structure import Region, region_of
from pitome_fx.passes.regions.symbolic import Shape


def region(function: Any, *inputs: Tensor) -> Region:
    """A function as one region."""
    graph = make_fx(function, tracing_mode="fake")(*inputs)
    return region_of([node for part in atoms(graph) for node in part])


class TestAlike:
    """Which regions are alike."""

    X = torch.randn(2, 12, 8)

    def test_lengths_may_differ(self) -> None:
        def f(x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], -1) * 2.0

        one, other = region(f, self.X), region(f, torch.randn(2, 15, 8))
        assert one.key == other.key and one.ints != other.ints

    @pytest.mark.parametrize(
        "other",
        [
            lambda x: x.reshape(2, -1) * 3.0,
            lambda x: (x * 2.0).reshape(2, -1),
            lambda x: x.transpose(1, 2).reshape(2, -1) * 2.0,
        ],
    )
    def test_ops_literals_and_wiring_may_not(self, other: Any) -> None:
        assert region(lambda x: x.reshape(2, -1) * 2.0, self.X).key != region(other, self.X).key

    @pytest.mark.parametrize(
        "other",
        [
            X.double(),
            X.transpose(1, 2).contiguous().transpose(1, 2),
            torch.randn(1, 12, 8),
            torch.randn(2, 12, 16)[..., ::2],
        ],
        ids=["dtype", "order", "length one", "strides"],
    )
    def test_operands_may_not(self, other: Tensor) -> None:
        def f(x: Tensor) -> Tensor:
            return x * 2.0

        assert region(f, self.X).key != region(f, other).key

    def test_which_value_is_which(self) -> None:
        def f(x: Tensor) -> Tensor:
            a, b = x + 1, x * 2
            return a - b

        def g(x: Tensor) -> Tensor:
            a, b = x + 1, x * 2
            return b - a

        assert region(f, self.X).key != region(g, self.X).key

    def test_which_operand_is_which(self) -> None:
        a, b = torch.randn(3, 3), torch.randn(3, 3)
        assert region(lambda x, y: x * y + x, a, b).key != region(lambda x, y: x * y + y, a, b).key


class TestShape:
    """Symbols for what differs."""

    def test_integers_that_go_together_are_one_symbol(self) -> None:
        def f(x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], x.shape[1] * x.shape[2])

        regions = [region(f, torch.randn(2, n, 8)) for n in (12, 15, 9)]
        shape = Shape.of(regions)
        assert len(shape.lowest) == 2  # tokens, and tokens times channels
        assert shape.values(regions[1].ints) in ((120, 15), (15, 120))
        assert shape.values(region(f, torch.randn(3, 9, 8)).ints) is None

    def test_small_lengths_are_kinds_of_their_own(self) -> None:
        def f(x: Tensor) -> Tensor:
            return x + 1

        shape = Shape.of([region(f, torch.randn(2, n, 5)) for n in (12, 15)])
        assert shape.values(region(f, torch.randn(2, 4, 5)).ints) is not None
        assert shape.values(region(f, torch.randn(2, 3, 5)).ints) is None


class TestJoining:
    """Few calls, each kind once."""

    @pytest.mark.parametrize(
        ("kinds", "most", "wanted"),
        [
            ("abcabcabc", 9, ["abc"] * 3),
            ("xabcabcy", 9, ["x", "abc", "abc", "y"]),
            ("eqsmfqsmfqsmft", 99, ["e", "qsmf", "qsmf", "qsmf", "t"]),
            ("abababab", 2, ["abab"] * 2),
            ("abcd", 9, ["abcd"]),
        ],
    )
    def test_what_is_joined(self, kinds: str, most: int, wanted: list[str]) -> None:
        ranges = join([ord(c) for c in kinds], [1] * len(kinds), most)
        assert [kinds[a:b] for a, b in ranges] == wanted

    def test_joining_for_nothing_never_compiles_more(self) -> None:
        text = "eqsmfqsmfqsmft"
        costs = {c: i + 1 for i, c in enumerate(sorted(set(text)))}
        ranges = join([ord(c) for c in text], [costs[c] for c in text], 99)
        different = {text[a:b] for a, b in ranges}
        assert sum(costs[c] for part in different for c in part) == sum(costs.values())
        assert len(ranges) < len(text)

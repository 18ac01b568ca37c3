"""Portable bodies of the pitome ops, each against the body of the op."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pitome_fx import ALGORITHMS, portable
from pitome_fx.ops import OPS
from pitome_fx.portable import PORTABLE
from tests.support.matching import call


class TestBodies:
    """Every portable body against the body of the op."""

    def test_there_is_one_for_every_op(self) -> None:
        assert PORTABLE.keys() == OPS.keys()

    @pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
    @given(
        tokens=st.integers(4, 17),
        share=st.floats(0, 1),
        seed=st.integers(0, 999),
        padded=st.booleans(),
        ties=st.booleans(),
        dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    )
    @settings(max_examples=25, deadline=None, derandomize=True)
    def test_match(
        self,
        algorithm: str,
        tokens: int,
        share: float,
        seed: int,
        padded: bool,
        ties: bool,
        dtype: torch.dtype,
    ) -> None:
        torch.manual_seed(seed)
        metric = torch.randn(2, tokens + 1, 5).to(dtype)
        if ties:
            # Equal energies must be equal after rounding too: exp(x) − 1 rounds unlike expm1(x).
            metric = torch.eye(5).to(dtype)[torch.randint(0, 3, (2, tokens + 1))]
        padding = torch.rand(2, tokens + 1) < 0.4 if padded else None
        k = int(share * ((tokens - 1) // 2))
        parameters = {"alpha": 0.0 if ties else 1.0, "margin": 0.6}
        own = {n: v for n, v in parameters.items() if n in ALGORITHMS[algorithm].parameters}
        args = call(algorithm, metric, torch.ones(2, tokens + 1), padding, k, 1, 0, **own)
        for a, b in zip(PORTABLE["match"](*args), torch.ops.pitome.match(*args), strict=True):
            assert torch.equal(a, b)

    @pytest.mark.parametrize("special", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
    def test_match_of_what_is_not_finite(self, algorithm: str, special: float) -> None:
        metric = torch.randn(4, 12, 5)
        metric[0, 3], metric[1, 5, 2], metric[2, [4, 7]] = special, special, special
        args = call(algorithm, metric, torch.ones(4, 12), None, 4, 1, 0)
        for a, b in zip(PORTABLE["match"](*args), torch.ops.pitome.match(*args), strict=True):
            assert torch.equal(a, b)

    @given(
        tokens=st.integers(4, 17),
        seed=st.integers(0, 999),
        special=st.sampled_from([None, torch.inf, -torch.inf, torch.nan, "lowest"]),
        dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    )
    @settings(max_examples=60, deadline=None, derandomize=True)
    def test_arithmetic_of_groups(
        self, tokens: int, seed: int, special: Any, dtype: torch.dtype
    ) -> None:
        torch.manual_seed(seed)
        found = groups(tokens)
        x = torch.randn(2, tokens, 3).to(dtype) * 100
        if special is not None:
            value = torch.finfo(dtype).min if special == "lowest" else special
            x = torch.where(torch.rand(2, tokens, 3) < 0.3, value, x)
        size, step, assign, counts = found
        calls: dict[str, tuple[Tensor, ...]] = {
            "merge": (x, size, *step),
            "unmerge": (x[:, : counts.shape[1]], assign),
            "project": (x, assign, counts),
            "group_logsumexp": (x, assign, counts),
            "assignment": step,
            "merge_size": (size, *step),
        }
        for name, args in calls.items():
            wanted = getattr(torch.ops.pitome, name)(*args)
            # The lowest float, as masks hold it, may be lost in rounding where it is averaged.
            scale = {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {}
            own = PORTABLE[name](*args)
            torch.testing.assert_close(own, wanted, equal_nan=True, **scale)

    def test_the_mean_of_equal_values_is_that_value(self) -> None:
        lowest = torch.finfo(torch.float32).min
        assign, size = torch.tensor([[0, 0, 0, 1, 1, 2]]), torch.tensor([[3.0, 2.0, 1.0]])
        found = portable.project(torch.full((1, 6, 1), lowest), assign, size)
        assert found.flatten().tolist() == [lowest] * 3

    @given(
        rows=st.lists(
            st.lists(
                st.sampled_from([0, 1, 2, torch.inf, -torch.inf, torch.nan]), min_size=6, max_size=6
            ),
            min_size=1,
            max_size=3,
        ),
        descending=st.booleans(),
    )
    @settings(max_examples=50, deadline=None, derandomize=True)
    def test_sorts_are_stable(self, rows: list[list[float]], descending: bool) -> None:
        x = torch.tensor(rows, dtype=torch.float32)
        wanted = torch.sort(x, descending=descending, stable=True)
        found = portable.sort(x, -1, descending)
        # The NaN drawn are to come in the same places.
        # Bit for bit; NaN is one of the values that are sorted.
        torch.testing.assert_close(found.values, wanted.values, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(found.indices, wanted.indices)
        down = portable.argsort(x, 0, descending)
        assert torch.equal(down, torch.argsort(x, dim=0, descending=descending, stable=True))

    @pytest.mark.parametrize("dim", [0, 1, 2, -1])
    def test_gather(self, dim: int) -> None:
        x = torch.randn(3, 4, 5)
        index = torch.randint(0, 3, (3, 2, 5))
        assert torch.equal(portable.gather(x, dim, index), x.gather(dim, index))
        expanded = torch.randint(0, 4, (3, 6, 1)).expand(3, 6, 5)
        assert torch.equal(portable.gather(x, 1, expanded), x.gather(1, expanded))
        narrow = expanded[:2, :, :1]
        assert torch.equal(portable.gather(x, 1, narrow), x.gather(1, narrow))

    def test_gather_asks_for_no_equal_sizes(self) -> None:
        """Two lengths that are the same in the example may differ."""

        class Gather(torch.nn.Module):
            def forward(self, x: Tensor, index: Tensor) -> Tensor:
                return portable.gather(x, 1, index.unsqueeze(-1).expand(-1, -1, 5))

        batches = {0: torch.export.Dim("a", min=2)}, {0: torch.export.Dim("b", min=2)}
        args = torch.randn(4, 6, 5), torch.randint(0, 6, (4, 3))
        program = torch.export.export(Gather(), args, dynamic_shapes=batches)
        x, index = torch.randn(7, 6, 5), torch.randint(0, 6, (2, 3))
        wanted = x.gather(1, index.unsqueeze(-1).expand(-1, -1, 5))
        assert torch.equal(program.module()(x, index), wanted)

    def test_symbolic_numbers_of_tokens(self) -> None:
        """The scan for the highest member of a group spans them all."""

        class LogSumExp(torch.nn.Module):
            def forward(self, x: Tensor, assign: Tensor, size: Tensor) -> Tensor:
                return portable.group_logsumexp(x, assign, size)

        def arguments(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
            _, _, assign, counts = groups(tokens)
            return torch.randn(2, tokens, 3) * 50, assign, counts

        first = torch.export.Dim("tokens", min=4, max=64)
        second = torch.export.Dim("groups", min=3, max=64)
        program = torch.export.export(
            LogSumExp(), arguments(11), dynamic_shapes=({1: first}, {1: first}, {1: second})
        )
        for tokens in (6, 33, 60):
            args = arguments(tokens)
            wanted = torch.ops.pitome.group_logsumexp(*args)
            torch.testing.assert_close(program.module()(*args), wanted)


def groups(tokens: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Sizes of tokens, a merge of a third of them, the assignment, the members of each group."""
    size = torch.randint(1, 4, (2, tokens)).float()
    k = max(1, tokens // 3)
    match = torch.ops.pitome.match
    step = match(torch.randn(2, tokens, 5), size, None, "pitome", k, 1, 0)
    counts = torch.ops.pitome.merge_size(torch.ones_like(size), *step)
    return size, step, torch.ops.pitome.assignment(*step), counts

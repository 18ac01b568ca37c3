"""Regions: what repeats in a merged graph is compiled once, and computes what the whole does."""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters
from torch.fx.experimental.proxy_tensor import make_fx

from pitome_fx.backends import kinds
from pitome_fx.backends.calls import Step, program
from pitome_fx.passes.regions.atoms import atoms, in_order
from pitome_fx.passes.regions.cutting import Cut
from pitome_fx.passes.regions.joining import join
from pitome_fx.passes.regions.structure import Region, region_of
from pitome_fx.passes.regions.symbolic import Shape
from tests.support.blocks import BY_HAND, by_hand
from tests.support.compiled import told
from tests.support.models import HUGGING_FACE, TIMM, TORCH, Case
from tests.support.oracle import tensors
from tests.support.regions import NAME, by_regions

MODELS = {
    **{name: BY_HAND[name] for name in ("sdpa", "matmul-bias", "sdpa-all-tokens")},
    **{name: TORCH[name] for name in ("encoder", "encoder-padded-sequence-first")},
    **{name: TIMM[name] for name in ("vit", "vit-mean-pool", "vit-parallel", "eva02")},
    **{name: HUGGING_FACE[name] for name in ("bert", "hf-vit")},
}


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """Regions that other tests compiled are none of this one's."""
    before = dict(kinds.KINDS)
    kinds.KINDS.clear()
    torch._dynamo.reset()
    yield
    kinds.KINDS.clear()
    kinds.KINDS.update(before)


def run(case: Case, lowering: str, **options: Any) -> Any:
    """Compile and run a case."""
    torch._dynamo.reset()
    options = {"ratio": 0.75, "strict": True, "lowering": lowering, **options}
    return torch.compile(case.model, backend="pitome", options=options)(*case.args, **case.kwargs)


def close(found: Tensor, wanted: Tensor) -> None:
    """Equal up to rounding in float64."""
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def said(caplog: pytest.LogCaptureFixture) -> tuple[int, int, int]:
    """Regions, kinds, and how many were compiled, by the last line that says so."""
    found = re.findall(r"(\d+) regions of (\d+) kinds, (\d+) compiled now", caplog.text)
    calls, different, compiled = map(int, found[-1])
    return calls, different, compiled


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


class TestInductor:
    """The default lowering."""

    def test_alike_regions_are_compiled_once(self, caplog: pytest.LogCaptureFixture) -> None:
        case = by_hand(pool="cls", depth=6, tokens=64).to(torch.float64)
        with torch.no_grad(), caplog.at_level(logging.INFO, "pitome_fx"):
            parts = run(case, "inductor", ratio=0.9)
            calls, different, compiled = said(caplog)
            assert compiled == different < calls
            again = run(case, "inductor", ratio=0.85)
            assert said(caplog) == (calls, different, 0)
            close(parts, run(case, "eager", ratio=0.9))
            close(again, run(case, "eager", ratio=0.85))

    def test_another_depth_compiles_little(self, caplog: pytest.LogCaptureFixture) -> None:
        with torch.no_grad(), caplog.at_level(logging.INFO, "pitome_fx"), by_regions() as cuts:
            for depth in (4, 6):
                run(by_hand(pool="cls", depth=depth, tokens=64), NAME, ratio=0.9)
        assert said(caplog)[2] == 1, "the head, which reads a token out of fewer ones"
        assert len(cuts) == 2

    def test_training_is_the_same(self) -> None:
        case = by_hand(pool="mean", depth=3).to(torch.float64)
        found = []
        for lowering in ("inductor", "eager"):
            case.model.zero_grad()
            output = run(case, lowering)
            output.square().sum().backward()
            found.append((output, *(p.grad.clone() for p in case.model.parameters())))
        for a, b in zip(*found, strict=True):
            close(a, b)

    def test_dropout_and_buffers_are_those_of_the_whole(self) -> None:
        """With PyTorch's own random numbers, which fall in the same order."""

        class Trained(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = by_hand(pool="none", depth=3).model
                self.norm = nn.BatchNorm1d(5)
                self.drop = nn.Dropout(0.3)

            def forward(self, x: Tensor) -> Tensor:
                return self.norm(self.drop(self.body(self.drop(x))).mean(1))

        found = []
        for lowering, own in (("inductor", {"fallback_random": True}), ("eager", {})):
            torch.manual_seed(0)
            model = Trained().double().train()
            x = torch.randn(4, 25, 24, dtype=torch.float64)
            torch.manual_seed(1)
            output = run(Case(model, (x,)), lowering, lowering_options=own)
            output.square().sum().backward()
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            found.append((output, *model.buffers(), *grads))
        assert int(found[0][3]) == 1
        for a, b in zip(*found, strict=True):
            close(a.double(), b.double())

    def test_autocast_around_and_inside(self) -> None:
        class Mixed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = by_hand(pool="none", depth=2).model
                self.between = nn.Linear(5, 24)
                self.second = by_hand(pool="none", depth=2).model

            def forward(self, x: Tensor) -> Tensor:
                x = self.between(self.first(x))
                with torch.autocast("cpu", enabled=False):
                    return self.second(x.float())

        case = Case(Mixed().eval(), (torch.randn(2, 25, 24),))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), by_regions() as cuts:
            whole, parts = (run(case, lowering) for lowering in ("eager", NAME))
        assert isinstance(cuts[0], Cut) and len(cuts[0].regions) > 10
        assert torch.equal(whole, parts) and whole.dtype == parts.dtype

    def test_another_setting_compiles_anew(self, caplog: pytest.LogCaptureFixture) -> None:
        case = by_hand(pool="cls", depth=3)
        with caplog.at_level(logging.INFO, "pitome_fx"), by_regions():
            with torch.no_grad():
                run(case, NAME)
                _, different, _ = said(caplog)
                run(case, NAME)
                assert said(caplog)[2] == 0
                run(case, NAME, lowering_options={"epilogue_fusion": False})
                assert said(caplog)[2] == different
            run(case, NAME)  # with gradients
            assert said(caplog)[2] == different

    def test_ops_that_take_no_symbols_are_compiled_for_their_lengths(self) -> None:
        class Resized(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = by_hand(pool="none", depth=3).model

            def forward(self, x: Tensor) -> Tensor:
                y = self.body(x).transpose(1, 2).unsqueeze(2)
                for width in (31, 36, 40):
                    y = nn.functional.interpolate(y, (2, width), mode="bilinear").tanh()
                    y = y @ y.mT @ y
                return y

        case = Case(Resized().eval(), (torch.randn(2, 25, 24),)).to(torch.float64)
        with torch.no_grad(), by_regions() as cuts:
            whole, parts = run(case, "eager"), run(case, NAME)
        assert isinstance(cuts[0], Cut) and torch.equal(whole, parts)


class TestWhole:
    """What is compiled as a whole, and who is told."""

    def test_a_symbolic_batch(self, caplog: pytest.LogCaptureFixture) -> None:
        case = by_hand(pool="cls", depth=2).to(torch.float64)
        model = torch.compile(case.model, backend="pitome", options={"ratio": 0.75}, dynamic=True)
        with torch.no_grad(), caplog.at_level(logging.INFO, "pitome_fx"):
            output = model(*case.args)
        assert "compiled as a whole: its sizes are symbolic" in caplog.text
        with torch.no_grad():
            close(output, run(case, "eager"))

    def test_modes_that_see_the_whole(self, caplog: pytest.LogCaptureFixture) -> None:
        case = by_hand(pool="cls", depth=2)
        with torch.no_grad(), caplog.at_level(logging.INFO, "pitome_fx"):
            run(case, "inductor", lowering_options={"mode": "reduce-overhead"})
        assert "compiled as a whole: CUDA graphs" in caplog.text

    def test_true_says_why_not(self) -> None:
        case = by_hand(pool="cls", depth=1)
        with torch.no_grad(), told() as messages:
            run(case, "inductor", regions=True)
        assert any("no two parts of it are alike" in text for text in messages)

    def test_false_is_heeded(self, caplog: pytest.LogCaptureFixture) -> None:
        with torch.no_grad(), caplog.at_level(logging.INFO, "pitome_fx"):
            run(by_hand(pool="cls", depth=2), "inductor", regions=False)
        assert "regions of" not in caplog.text and not kinds.KINDS

    def test_other_lowerings_have_none(self) -> None:
        with pytest.raises(BackendCompilerFailed, match="regions=True is for lowering='inductor'"):
            run(by_hand(), "eager", regions=True)

    def test_writes_to_what_is_shared(self) -> None:
        class Writing(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = by_hand(pool="none", depth=4).model
                self.register_buffer("seen", torch.zeros(2, 5))

            def forward(self, x: Tensor) -> Tensor:
                first, second = self.seen[0], self.seen[1]
                y = self.body(x)
                first.add_(y.mean((0, 1)))
                second.add_(first)
                return y + second

        models = [Writing().eval(), Writing().eval()]
        models[1].load_state_dict(models[0].state_dict())
        x = torch.randn(2, 25, 24)
        with torch.no_grad(), by_regions() as cuts:
            whole = run(Case(models[0], (x,)), "eager")
            parts = run(Case(models[1], (x,)), NAME)
        assert cuts == ["it writes to a tensor of which it has several views"]
        assert torch.equal(whole, parts) and torch.equal(*(m.seen for m in models))


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
            ("eqsmfqsmfqsmft", 99, ["eq", "sm", "fq", "sm", "fq", "sm", "ft"]),
            ("abababab", 2, ["abab"] * 2),
            ("abcd", 9, ["abcd"]),
        ],
    )
    def test_what_is_joined(self, kinds: str, most: int, wanted: list[str]) -> None:
        ranges = join([ord(c) for c in kinds], [1] * len(kinds), most)
        if "eq" not in wanted:
            assert [kinds[a:b] for a, b in ranges] == wanted
        assert "".join(kinds[a:b] for a, b in ranges) == kinds

    def test_joining_for_nothing_never_compiles_more(self) -> None:
        text = "eqsmfqsmfqsmft"
        costs = {c: i + 1 for i, c in enumerate(sorted(set(text)))}
        ranges = join([ord(c) for c in text], [costs[c] for c in text], 99)
        different = {text[a:b] for a, b in ranges}
        assert sum(costs[c] for part in different for c in part) == sum(costs.values())
        assert len(ranges) < len(text)


class TestCaches:
    """Regions hit the compile caches as graphs do."""

    def test_another_process_compiles_nothing(self) -> None:
        """Here: a process that forgot."""
        case = by_hand(pool="cls", depth=4).to(torch.float64)
        with torch.no_grad(), torch._inductor.utils.fresh_cache():
            first = run(case, "inductor")
            kinds.KINDS.clear()
            counters.clear()
            second = run(case, "inductor")
            assert counters["inductor"]["fxgraph_cache_miss"] == 0
            assert counters["inductor"]["fxgraph_cache_hit"] > 2
        assert torch.equal(first, second)

    def test_what_a_cached_graph_assumes_is_known(self) -> None:
        """A kind read from the cache is not taken for lengths that its code does not fit."""

        case = by_hand(pool="cls", depth=4).to(torch.float64)
        how = {"algorithm": "pitome-vision"}  # asks in which half of the blocks it is
        with torch.no_grad(), torch._inductor.utils.fresh_cache():
            for _ in range(2):
                kinds.KINDS.clear()
                close(run(case, "inductor", **how), run(case, "eager", **how))

"""Compile caches: a changed algorithm never meets what was compiled for the old one.

The caches of AOTAutograd and Inductor key on the graph, in which a pitome op is just its name.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

import pitome_fx
from pitome_fx import ALGORITHMS, Match, Options, Tokens, portable, register
from pitome_fx.backends.caching import Tag, digest
from pitome_fx.ops import OPS
from tests.support.blocks import by_hand
from tests.support.compiled import compiled
from tests.support.models import Case
from tests.support.oracle import assert_close


def merging_neighbours(first: int) -> Callable[..., Match]:
    """The token behind ``first`` joins the one after it."""

    def match(tokens: Tokens) -> Match:
        return neighbours(tokens, first)

    return match


def neighbours(given: Tokens, first: int) -> Match:
    """k pairs of neighbours merge, from ``first`` on."""
    metric, k = given.metric, given.k
    batch, tokens = metric.shape[:2]
    moved = torch.arange(first, first + 2 * k, 2, device=metric.device)
    place = torch.arange(tokens, device=metric.device)
    kept = torch.cat([moved + 1, place[:first], place[first + 2 * k :]])
    target = torch.arange(k, device=metric.device)
    return Match(*(x.expand(batch, -1) for x in (kept, moved, target)))


def from_the_front(tokens: Tokens) -> Match:
    return neighbours(tokens, 0)


def from_the_fifth(tokens: Tokens) -> Match:
    return neighbours(tokens, 5)


def merging_from(first: int, tokens: Tokens) -> Match:
    return neighbours(tokens, first)


@dataclasses.dataclass
class MergingFrom:
    """An algorithm that is an object."""

    first: int

    def __call__(self, tokens: Tokens) -> Match:
        return neighbours(tokens, self.first)


def moving(places: Tensor) -> Callable[..., Match]:
    """The first k of the places given join the last."""

    def match(tokens: Tokens) -> Match:
        metric, k = tokens.metric, tokens.k
        order = places[: metric.shape[1]].expand(metric.shape[0], -1)
        return Match(order[:, k:], order[:, :k], torch.full_like(order[:, :k], 0))

    return match


IN_A_CELL = """
def match(tokens):
    return neighbours(tokens, {first})
"""


def typed_in(first: int | str, **names: Any) -> Callable[..., Match]:
    """A function without a source file, as typed into an interpreter."""
    names["neighbours"] = neighbours
    exec(IN_A_CELL.format(first=first), names)
    return names["match"]


PAIRS: dict[str, tuple[Callable[..., Match], Callable[..., Match]]] = {
    "other source": (from_the_front, from_the_fifth),
    "same source, other closure": (merging_neighbours(0), merging_neighbours(5)),
    "without a source file": (typed_in(0), typed_in(5)),
    "other global": (typed_in("FIRST", FIRST=0), typed_in("FIRST", FIRST=5)),
    "partial": (partial(merging_from, 0), partial(merging_from, 5)),
    "callable object": (MergingFrom(0), MergingFrom(5)),
    "other large tensor": (moving(torch.arange(24)), moving(torch.arange(24).flip(0))),
}


@pytest.fixture
def probe() -> Iterator[str]:
    """Name of an algorithm that the test may register and replace."""
    yield "probe"
    ALGORITHMS.pop("probe", None)


def replace(name: str, body: Callable[..., Match]) -> None:
    """What happens when the file of an algorithm is edited between two runs."""
    ALGORITHMS.pop(name, None)
    register(name)(body)
    torch._dynamo.reset()
    counters.clear()


def small() -> Case:
    return by_hand(pool="none", depth=1)


def run(case: Case, name: str) -> tuple[Tensor, Tensor]:
    """Output through Inductor, and through the same pass in eager."""
    with torch.no_grad():
        output = compiled(case.model, ratio=0.8, algorithm=name, lowering="inductor")(*case.args)
        graph = pitome_fx.transform(case.model, case.args, ratio=0.8, algorithm=name)
        return output, graph(*case.args)


@pytest.mark.slow
@pytest.mark.parametrize("change", PAIRS)
def test_a_changed_algorithm_misses_the_cache(probe: str, change: str) -> None:
    case = small()
    before, after = PAIRS[change]
    replace(probe, before)
    first, in_eager = run(case, probe)
    assert_close(first, in_eager, 1e-5)
    replace(probe, after)
    second, in_eager = run(case, probe)
    assert_close(second, in_eager, 1e-5)
    assert not torch.allclose(first, second)


def test_tag_of_a_visible_algorithm_of_a_users_own_is_of_this_registration(probe: str) -> None:
    options = Options(ratio=0.8, algorithm="tome", form="pitome")
    assert digest(options) == digest(options)
    replace(probe, partial(merging_from, 0))
    options = Options(ratio=0.8, algorithm=probe, form="pitome")
    before = digest(options)
    assert digest(options) == before
    replace(probe, partial(merging_from, 5))
    assert digest(options) != before


@pytest.mark.slow
def test_the_same_algorithm_hits_the_cache(probe: str) -> None:
    case = small()
    replace(probe, from_the_front)
    first, _ = run(case, probe)
    replace(probe, from_the_front)
    second, _ = run(case, probe)
    assert counters["aot_autograd"]["autograd_cache_hit"] == 1
    assert counters["inductor"]["fxgraph_cache_miss"] == 0
    assert torch.equal(first, second)


CHANGES: dict[str, Any] = {
    "ratio": 0.7,
    "algorithm": "tome",
    "algorithm_options": {"margin": 0.5},
    "metric": "hidden",
    "proportional": False,
    "protect": 2,
}


@pytest.mark.parametrize("key", CHANGES)
def test_tag_changes_with_the_options(key: str) -> None:
    options = Options(ratio=0.8, algorithm="pitome")
    other = dataclasses.replace(options, **{key: CHANGES[key]})
    assert Tag(digest(options)).uuid() != Tag(digest(other)).uuid()
    same = Options(ratio=0.8, algorithm="pitome")
    assert Tag(digest(options)).uuid() == Tag(digest(same)).uuid()


def test_tag_changes_with_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(Options())
    monkeypatch.setitem(OPS, "merge", OPS["merge"]._replace(body=portable.merge))
    assert digest(Options()) != before


def test_tag_changes_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(Options())
    monkeypatch.setattr(pitome_fx, "__version__", "99")
    assert digest(Options()) != before


def test_tag_changes_nothing_in_a_graph() -> None:
    graph = torch.fx.symbolic_trace(torch.nn.ReLU()).graph
    text = str(graph)
    Tag("x")(graph)
    assert str(graph) == text

"""An algorithm is a plug-in: registered from outside, it works like those that come along."""

from collections.abc import Iterator

import pytest
import torch

import pitome_fx
from pitome_fx import ALGORITHMS, Match, Options, OptionsError, Tokens, register
from tests.support.blocks import by_hand
from tests.support.oracle import assert_keeps_the_law, pitome_nodes


def neighbours(given: Tokens, *, skip: int = 0) -> Match:
    """Tokens 0, 2, 4… join the next one until k have moved."""
    metric, k = given.metric, given.k
    batch, tokens = metric.shape[:2]
    moved = torch.arange(0, 2 * k, 2, device=metric.device)
    stays = torch.ones(tokens, dtype=torch.bool).index_fill(0, moved, False)
    kept = torch.arange(tokens, device=metric.device)[stays]
    target = torch.arange(k, device=metric.device)
    return Match(*(x.expand(batch, -1) for x in (kept, moved, target)))


@pytest.fixture
def plugin() -> Iterator[str]:
    """The algorithm, registered for one test."""
    register("neighbours", metric="hidden")(neighbours)
    yield "neighbours"
    del ALGORITHMS["neighbours"]


def test_it_merges_end_to_end(plugin: str) -> None:
    case = by_hand().to(torch.float64)
    done = assert_keeps_the_law(case, ratio=0.8, algorithm=plugin)
    # 24 tokens, of which ⌊4.8⌋ go: tokens 0 and 1 (behind the class token) now share a group.
    assert done.assignments[0][0, :11].tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6]


def test_it_compiles(plugin: str) -> None:
    case = by_hand().to(torch.float64)
    options = {"ratio": 0.8, "algorithm": plugin, "strict": True}
    graph = pitome_fx.transform(case.model, case.args, **options)
    compiled = torch.compile(case.model, backend="pitome", options={**options, "lowering": "eager"})
    assert torch.equal(compiled(*case.args), graph(*case.args))


def test_its_defaults_hold(plugin: str) -> None:
    case = by_hand()
    graph = pitome_fx.transform(case.model, case.args, ratio=0.8, algorithm=plugin)
    nodes = pitome_nodes(graph, "match")
    assert [node.args[7:10] for node in nodes] == [(i, 3, '{"skip": 0}') for i in range(3)]
    assert nodes[0].args[0].meta["val"].shape[-1] == 24, "hidden states, not keys of width 8"
    assert Options(algorithm=plugin).resolved().metric == "hidden"


def test_its_name_is_listed_where_another_is_wrong(plugin: str) -> None:
    with pytest.raises(OptionsError, match=plugin):
        Options(algorithm="neighbors")


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="'tome' is registered already"):
        register("tome")(neighbours)

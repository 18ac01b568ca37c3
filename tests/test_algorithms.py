"""The matching algorithms against the papers' equations, and what every one of them promises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pitome_fx import ALGORITHMS, Match
from tests.support.blocks import by_hand
from tests.support.matching import call, match
from tests.support.models import bert, encoder, timm_vit
from tests.support.oracle import assert_keeps_the_law, pitome_nodes, transformed
from tests.support.reference import MATCHINGS, partition

NAMES = sorted(ALGORITHMS)


def groups_of(found: Match) -> list[set[frozenset[int]]]:
    """For every item of the batch the groups, each as the set of its tokens."""
    result = []
    for kept, moved, target in zip(*(x.tolist() for x in found), strict=True):
        groups = [{token} for token in kept]
        for token, group in zip(moved, target, strict=True):
            groups[group].add(token)
        result.append({frozenset(group) for group in groups})
    return result


def clustered(tokens: int, seed: int, width: int = 6, batch: int = 2) -> Tensor:
    """(batch, tokens, width) in float64: noisy copies of four centres, so that many are alike."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(batch, 4, width, generator=generator, dtype=torch.float64)
    which = torch.randint(0, 4, (tokens,), generator=generator)
    noise = torch.randn(batch, tokens, width, generator=generator, dtype=torch.float64)
    return centres[:, which] + 0.3 * noise


@pytest.mark.parametrize("name", sorted(MATCHINGS))
@given(tokens=st.integers(2, 24), share=st.floats(0, 1), seed=st.integers(0, 999))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_groups_are_those_of_the_paper(name: str, tokens: int, share: float, seed: int) -> None:
    metric = clustered(tokens, seed)
    k = max(1, round(share * (tokens // 2)))
    for margin in (0.9, 0.3):
        given = {"margin": margin, "alpha": 0.7}
        own = {key: v for key, v in given.items() if key in ALGORITHMS[name].parameters}
        found = groups_of(match(name, metric, k, **own))
        for item, groups in zip(metric, found, strict=True):
            assert groups == partition(MATCHINGS[name](item, k, margin, 0.7), tokens)


@pytest.mark.parametrize("name", NAMES)
def test_every_token_is_kept_or_moved_once(name: str) -> None:
    found = match(name, clustered(21, 0), 8)
    places = torch.cat([found.kept, found.moved], 1).sort(1).values
    assert torch.equal(places, torch.arange(21).expand(2, -1))
    assert found.target.shape == (2, 8)
    assert int(found.target.min()) >= 0 and int(found.target.max()) < 13


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("pitome")])
def test_order_of_tokens_has_no_influence(name: str) -> None:
    metric = clustered(20, 1)
    shuffle = torch.randperm(20)
    straight = groups_of(match(name, metric, 7))
    shuffled = groups_of(match(name, metric[:, shuffle], 7))
    back = [{frozenset(shuffle[list(g)].tolist()) for g in groups} for groups in shuffled]
    assert back == straight


def test_order_of_tokens_matters_to_tome() -> None:
    metric = torch.eye(4)[[0, 1, 0, 1]].unsqueeze(0)
    # The two pairs of equal tokens lie on the same side of the alternating split…
    assert frozenset({0, 2}) not in groups_of(match("tome", metric, 2))[0]
    # …until the tokens are sorted.
    assert groups_of(match("tome", metric[:, [0, 2, 1, 3]], 2)) == [
        {frozenset({0, 1}), frozenset({2, 3})}
    ]


@pytest.mark.parametrize("name", sorted(MATCHINGS))
def test_ties_go_by_position(name: str) -> None:
    first, second = (match(name, torch.ones(1, 10, 4), 3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    moved = [0, 1, 2] if name == "pitome-text" else [0, 2, 4]
    joined = 3 if name == "pitome-text" else 1
    assert first.moved.tolist() == [moved]
    assert first.kept.gather(1, first.target).tolist() == [[joined] * 3]


@pytest.mark.parametrize("name", sorted({*NAMES} - {"dpc-knn", "ailurus"}))
def test_scale_of_the_metric_has_no_influence(name: str) -> None:
    metric = clustered(16, 2)
    scale = torch.rand(2, 16, 1, dtype=torch.float64) + 0.5
    assert groups_of(match(name, metric * scale, 6)) == groups_of(match(name, metric, 6))


padded = st.lists(st.booleans(), min_size=3, max_size=20)


@pytest.mark.parametrize("name", NAMES)
@given(pattern=padded, share=st.floats(0, 1), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_padding_and_real_tokens_never_share_a_group(
    name: str, pattern: list[bool], share: float, seed: int
) -> None:
    tokens = len(pattern)
    padding = torch.tensor([pattern, pattern[::-1]])
    k = max(1, round(share * ((tokens - 1) // 2)))
    for hidden, groups in zip(
        padding.tolist(), groups_of(match(name, clustered(tokens, seed), k, padding)), strict=True
    ):
        assert len(groups) == tokens - k
        assert all(len({hidden[i] for i in group}) == 1 for group in groups)


@pytest.mark.parametrize("name", NAMES)
@given(pattern=padded, share=st.floats(0, 1), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_content_of_padding_has_no_influence_on_real_tokens(
    name: str, pattern: list[bool], share: float, seed: int
) -> None:
    tokens = len(pattern)
    padding = torch.tensor([pattern] * 2)
    k = max(1, round(share * ((tokens - 1) // 2)))
    metric = clustered(tokens, seed)
    other = torch.where(padding.unsqueeze(-1), clustered(tokens, seed + 1) * 100, metric)
    real = {i for i, hidden in enumerate(pattern) if not hidden}
    first, second = (
        [{group for group in groups if group <= real} for groups in groups_of(found)]
        for found in (match(name, metric, k, padding), match(name, other, k, padding))
    )
    assert first == second


@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("name", NAMES)
def test_removing_nothing_keeps_every_token(name: str, padded: bool) -> None:
    padding = torch.arange(9).expand(2, -1) >= 6 if padded else None
    found = match(name, clustered(9, 5), 0, padding)
    assert torch.equal(found.kept.sort(1).values, torch.arange(9).expand(2, -1))
    assert found.moved.shape == found.target.shape == (2, 0)


@pytest.mark.parametrize("name", NAMES)
def test_padding_goes_first(name: str) -> None:
    padding = torch.arange(20).expand(2, -1) >= 12
    groups = groups_of(match(name, clustered(20, 3), 4, padding))
    assert all(len(group) == 1 for item in groups for group in item if min(group) < 12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_metrics_are_matched_in_float32(dtype: torch.dtype) -> None:
    metric = clustered(64, 4).to(dtype)
    size = torch.ones(2, 64)
    rest = (size, None, "pitome", 20, 0, 0)
    wanted = torch.ops.pitome.match(metric.float(), *rest)
    found = torch.ops.pitome.match(metric, *rest)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = torch.ops.pitome.match(metric, *rest)
    for a, b, c in zip(found, under_autocast, wanted, strict=True):
        assert torch.equal(a, c) and torch.equal(b, c)


def test_float64_metrics_are_matched_in_float64() -> None:
    metric = torch.zeros(1, 4, 4, dtype=torch.float64)
    metric[0, 0, 0] = metric[0, 2, 2] = 1
    metric[0, 1, 0], metric[0, 1, 1] = 0.6, 0.8
    metric[0, 3, 2], metric[0, 3, 3] = 0.6 + 1e-10, 0.8
    rest = (torch.ones(1, 4), None, "tome", 1, 0, 0)
    # Token 2 is nearer to token 3 than token 0 is to token 1, by 1e-10.
    _, moved, _ = torch.ops.pitome.match(metric, *rest)
    assert moved.tolist() == [[2]]
    # In float32 they are equally near, and the first one wins.
    _, moved, _ = torch.ops.pitome.match(metric.float(), *rest)
    assert moved.tolist() == [[0]]


def test_the_margin_falls_over_the_blocks() -> None:
    """m = margin − margin·i/L: what merges in the last of three blocks has a third of it."""
    metric = clustered(24, 8)
    last = groups_of(match("pitome", metric, 9, block=(2, 3), margin=0.9))
    assert last == groups_of(match("pitome", metric, 9, margin=0.3))
    assert last != groups_of(match("pitome", metric, 9, margin=0.9))


def test_every_block_knows_its_number_and_the_parameters() -> None:
    options = {"margin": 0.6, "alpha": 0.5}
    graph = transformed(timm_vit(), algorithm="pitome", ratio=0.9, algorithm_options=options)
    nodes = pitome_nodes(graph, "match")
    assert [node.args[7:9] for node in nodes] == [(0, 3), (1, 3), (2, 3)]
    assert {node.args[9] for node in nodes} == {'{"margin": 0.6, "alpha": 0.5}'}


def test_text_algorithm_merges_in_the_first_three_layers_only() -> None:
    case = timm_vit(depth=5)
    first = pitome_nodes(transformed(case, algorithm="pitome-text", ratio=0.9), "match")
    # The margin falls over all five blocks, whether they merge or not.
    assert [node.args[7:9] for node in first] == [(0, 5), (1, 5), (2, 5)]
    chosen = transformed(case, algorithm="pitome-text", ratio=0.9, blocks=[1, 4])
    assert len(pitome_nodes(chosen, "match")) == 2


def test_half_models_are_matched_on_float32_keys() -> None:
    graph = transformed(bert().to(torch.bfloat16), ratio=0.8, metric="keys")
    for node in pitome_nodes(graph, "match"):
        metric, size = node.args[:2]
        assert isinstance(metric, torch.fx.Node) and isinstance(size, torch.fx.Node)
        assert metric.meta["val"].dtype == size.meta["val"].dtype == torch.float32


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 2])
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_too_few_tokens_to_merge_stay(name: str, tokens: int, padded: bool) -> None:
    """As they may be at run time, where their number is symbolic."""
    padding = torch.ones(2, tokens + 1, dtype=torch.bool) if padded else None
    metric, size = torch.randn(2, tokens + 1, 5), torch.ones(2, tokens + 1)
    found = torch.ops.pitome.match(*call(name, metric, size, padding, 0, 1, 0))
    assert found[0].sort(1).values.tolist() == [list(range(tokens + 1))] * 2
    assert found[1].numel() == found[2].numel() == 0


@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_merged_by_it_keeps_the_law(name: str, padded: bool) -> None:
    """With a class token and without; the oracle computes by itself what the algorithm asks for."""
    case = (encoder(padded=True) if padded else by_hand()).to(torch.float64)
    blocks = {"blocks": [0, 1, 2]}
    done = assert_keeps_the_law(case, algorithm=name, ratio=0.7, min_tokens=4, **blocks)
    assert len(done.assignments) >= 2


IMPORTANT = ("evit", "msvit", "gtp", "mctf")


@pytest.mark.parametrize("name", IMPORTANT)
def test_importance_is_asked_of_the_class_token_in_time_linear_in_tokens(name: str) -> None:
    graph = transformed(by_hand(), algorithm=name, ratio=0.8)
    (asked, *_) = pitome_nodes(graph, "importance")
    shapes = [x.meta["val"].shape for x in asked.all_input_nodes[:2]]
    assert shapes[0] == shapes[1] and asked.args[-1] == 1
    assert not pitome_nodes(transformed(by_hand(), ratio=0.8), "importance")


def test_importance_is_what_the_class_token_attends_to() -> None:
    """Heads that share keys too, and no attention to padding."""
    queries, keys = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8)
    size = torch.randint(1, 4, (2, 9)).float()
    padding = torch.arange(9).expand(2, -1) >= 7
    found = torch.ops.pitome.importance(queries, keys, size, padding, 1)
    bias = size.log().masked_fill(padding, -torch.inf)[:, None, None]
    scores = queries[:, :, :1] @ keys.repeat_interleave(2, 1).mT / 8**0.5 + bias
    torch.testing.assert_close(found, scores.softmax(-1).mean(1)[:, 0])
    assert float(found[:, 7:].max()) == 0


@pytest.mark.parametrize("name", ["evit", "msvit", "dpc-knn", "ailurus"])
def test_some_remove_all_but_one(name: str) -> None:
    case = by_hand()
    done = assert_keeps_the_law(case.to(torch.float64), algorithm=name, ratio=0.05, blocks=[0])
    # The class token, and a twentieth of the 24 others.
    assert int(done.assignments[0].max()) + 1 == 3


def test_pruning_keeps_what_stays() -> None:
    """The first half of ToFu's blocks: no value is mixed with another."""
    metric, size = torch.randn(2, 12, 5), torch.ones(2, 12)
    deciding = call("tofu", metric, size, None, 4, 1, 0)
    kept, moved, target = torch.ops.pitome.match(*deciding)
    own, mix = torch.ops.pitome.weigh(kept, moved, target, *deciding)
    assert bool((own == 1).all()) and not bool(mix.any())
    combined = torch.ops.pitome.combine(metric, kept, moved, own, mix)
    assert torch.equal(combined, metric.gather(1, kept.unsqueeze(-1).expand(-1, -1, 5)))


def test_a_fused_mean_has_the_norm_of_its_longest_member() -> None:
    """MLERP, in the second half of ToFu's blocks."""
    metric, size = torch.randn(2, 12, 5), torch.ones(2, 12)
    deciding = call("tofu", metric, size, None, 6, 0, 0, pruned=0.0)
    step = torch.ops.pitome.match(*deciding)
    weights = torch.ops.pitome.weigh(*step, *deciding)
    norms = torch.ops.pitome.combine(metric, *step[:2], *weights).norm(dim=-1)
    group = torch.ops.pitome.assignment(*step)
    for item in range(2):
        for g in range(6):
            longest = metric[item, group[item] == g].norm(dim=-1).max()
            torch.testing.assert_close(norms[item, g], longest)

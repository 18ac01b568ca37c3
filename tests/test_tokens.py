"""tokens: the data behind every picture of a merge."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pitome_fx
from pitome_fx import ALGORITHMS, Match, MergedTokens, PitomeWarning, RefusedError, Tokens, register
from pitome_fx.frontends.grid import Grid
from pitome_fx.frontends.transform import export
from pitome_fx.testing import simulate
from tests.support.blocks import Transformer, by_hand
from tests.support.matching import tokens_for
from tests.support.models import TIMM, Case, bert, images, randomised


def next_one(given: Tokens, *, step: int = 1) -> Match:
    """Tokens 0, 2, 4… join the one ``step`` places on; ``step`` is odd."""
    batch, tokens = given.metric.shape[:2]
    moved = 2 * torch.arange(given.k)
    kept = torch.arange(tokens)[~torch.isin(torch.arange(tokens), moved)]
    target = torch.searchsorted(kept, moved + step)
    return Match(*(x.expand(batch, -1) for x in (kept, moved, target)))


def first_feature(given: Tokens, *, step: int = 1) -> Tensor:
    """A score: the first feature, times the parameter."""
    return given.metric[..., 0] * step


@pytest.fixture
def plugin() -> Iterator[str]:
    """An algorithm whose groups can be written down, registered for one test."""
    register("next", metric="hidden", scores=first_feature)(next_one)
    yield "next"
    del ALGORITHMS["next"]


def looked_at(case: Case, **options: Any) -> list[MergedTokens]:
    """The merges of a call of a case."""
    return pitome_fx.tokens(case.model, case.args, case.kwargs, **options)


def timm_image(name: str, height: int, width: int, **changes: Any) -> Case:
    """A model of timm of small width, on two images of any shape."""
    import timm

    small = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": (height, width)}
    model = timm.create_model(name, pretrained=False, **small | changes)
    return Case(randomised(model), (torch.randn(2, 3, height, width),))


def test_groups_are_composed_over_merges(plugin: str) -> None:
    """A class token and 24 others, of which 4 go each time: 0→1, 2→3, 4→5, 6→7."""
    first, second = looked_at(by_hand(depth=2), r=4, algorithm=plugin)
    pairs = [0, 1, 1, 2, 2, 3, 3, 4, 4, *range(5, 21)]
    fours = [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4, *range(5, 17)]
    assert first.before.tolist() == [list(range(25))] * 2
    assert first.assignment.tolist() == second.before.tolist() == [pairs] * 2
    assert second.assignment.tolist() == [fours] * 2
    assert first.sizes.tolist() == [[1, 2, 2, 2, 2, *[1] * 16]] * 2
    assert second.sizes.tolist() == [[1, 4, 4, 2, 2, *[1] * 12]] * 2
    assert (first.tokens_before, first.tokens_after, second.tokens_after) == (25, 21, 17)
    assert (first.front, first.back, first.stream, second.stream) == (1, 0, 0, 0)
    assert [m.number for m in (first, second)] == [0, 1]
    assert [m.module for m in (first, second)] == ["blocks.0", "blocks.1"]


@pytest.mark.parametrize("name", ["vit", "deit-distilled", "dinov2-registers", "eva02"])
def test_a_simulation_of_these_groups_is_the_merged_model(name: str) -> None:
    case = TIMM[name]().to(torch.float64)
    options = {"ratio": 0.8, "algorithm": "pitome"}
    merges = looked_at(case, **options)
    merged = pitome_fx.transform(case.model, case.args, **options)
    given = [merge.assignment for merge in merges]
    simulated = simulate(case.model, case.args, assignments=given, **options)
    with torch.no_grad():
        torch.testing.assert_close(simulated, merged(*case.args), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "front"), [("vit", 1), ("deit-distilled", 2)])
def test_items_merge_on_their_own_and_special_tokens_stay_alone(name: str, front: int) -> None:
    *_, last = looked_at(TIMM[name](), ratio=0.7)
    assert last.front == front
    assert not torch.equal(last.assignment[0], last.assignment[1])
    for groups, sizes in zip(last.assignment, last.sizes, strict=True):
        assert groups[:front].tolist() == list(range(front))
        assert torch.equal(groups.bincount(), sizes)
        assert sizes[:front].tolist() == [1] * front


def test_a_report_and_the_tokens_speak_of_the_same_sites() -> None:
    case = TIMM["deit"]()
    options = {"ratio": 0.8, "blocks": [0, 2]}
    report = pitome_fx.explain(case.model, case.args, **options)
    wanted = [(b.number, b.tokens_before, b.tokens_after) for b in report.blocks if b.merged]
    merges = looked_at(case, **options)
    assert [(m.number, m.tokens_before, m.tokens_after) for m in merges] == wanted
    assert [m.module for m in merges] == ["blocks.0.attn", "blocks.2.attn"]


def test_padding_merges_with_padding_and_has_no_score() -> None:
    case = bert()
    padding = case.kwargs["attention_mask"] == 0
    merges = looked_at(case, ratio=0.8, algorithm="pitome")
    assert len(merges) == 3
    for merge in merges:
        for groups, hidden in zip(merge.assignment, padding, strict=True):
            assert not set(groups[hidden].tolist()) & set(groups[~hidden].tolist())
        assert merge.scores is not None
        unscored = merge.scores.isnan().gather(1, merge.before)
        # Of BERT's first token the pooler reads: it is protected, and has no score either.
        assert torch.equal(unscored[:, 1:], padding[:, 1:]) and bool(unscored[:, 0].all())


def test_streams_of_a_hierarchical_model_begin_anew() -> None:
    """PiT pools between its stages: two of them merge, on grids of their own."""
    import timm

    small = {"base_dims": [16, 16, 16], "heads": [1, 2, 4], "depth": [1, 3, 3]}
    model = randomised(timm.create_model("pit_ti_224", pretrained=False, **small))
    merges = pitome_fx.tokens(model, (images(224),), ratio=0.9, blocks=[1, 2, 4, 5])
    found = [(m.number, m.stream, m.before.shape[1], m.grid and m.grid.shape) for m in merges]
    assert found == [
        (1, 0, 197, (14, 14)),
        (2, 0, 197, (14, 14)),
        (4, 1, 50, (7, 7)),
        (5, 1, 50, (7, 7)),
    ]
    for first, second in (merges[:2], merges[2:]):
        assert torch.equal(first.before, torch.arange(first.tokens_before).expand(2, -1))
        assert torch.equal(second.before, first.assignment)


GRIDS = [
    ("vit_tiny_patch16_224", {"patch_size": 16}, 1),
    ("vit_tiny_patch16_224", {"patch_size": 16, "class_token": False, "global_pool": "avg"}, 0),
    ("deit_tiny_distilled_patch16_224", {"patch_size": 16}, 2),
    ("vit_small_patch14_dinov2", {"patch_size": 16}, 1),
    ("vit_small_patch14_reg4_dinov2", {"patch_size": 16}, 5),
    ("vit_small_patch14_dinov2", {"patch_size": 16, "dynamic_img_size": True}, 1),
    ("beit_base_patch16_224", {"patch_size": 16}, 1),
]


@pytest.mark.parametrize(("name", "changes", "start"), GRIDS)
def test_the_grid_is_found(name: str, changes: dict[str, Any], start: int) -> None:
    for height, width in ((96, 160), (128, 64)):
        merges = looked_at(timm_image(name, height, width, **changes), ratio=0.8)
        assert len(merges) == 2
        for merge in merges:
            assert merge.grid is not None
            assert (merge.grid.shape, merge.grid.start) == ((height // 16, width // 16), start)


class Pieces(nn.Module):
    """Images (B, 3, 8·h, 8·w), cut up without a convolution, in rows or in windows of 2 × 2."""

    def __init__(self, windows: bool) -> None:
        super().__init__()
        self.windows = windows
        self.embed = nn.Linear(3 * 8 * 8, 24)
        self.blocks = Transformer("sdpa", False, "mean", tokens=0, depth=1).blocks

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).permute(0, 2, 4, 3, 5, 1)
        if self.windows:
            x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 2, 4, 5, 6, 7)
            x = x.flatten(5).flatten(1, 4)
        else:
            x = x.flatten(3).flatten(1, 2)
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


@pytest.mark.parametrize(("windows", "shape"), [(False, (4, 6)), (True, None)])
def test_pieces_lie_on_a_grid_unless_their_order_is_another(
    windows: bool, shape: tuple[int, int] | None
) -> None:
    model = randomised(Pieces(windows))
    (merge,) = pitome_fx.tokens(model, (torch.randn(2, 3, 32, 48),), ratio=0.8)
    assert merge.tokens_before == 24
    assert (merge.grid and merge.grid.shape) == shape


def test_an_exported_program_brings_its_inputs() -> None:
    case = by_hand()
    own = looked_at(case, ratio=0.8)
    of_program = pitome_fx.tokens(export(case.model, case.args, None), ratio=0.8)
    assert len(own) == 3
    for one, other in zip(own, of_program, strict=True):
        assert torch.equal(one.assignment, other.assignment)


def test_inputs_of_another_make_are_told() -> None:
    case = by_hand()
    program = export(case.model, case.args, None)
    with pytest.raises(TypeError, match="not built as those that the program was exported with"):
        pitome_fx.tokens(program, (*case.args, torch.zeros(1)), ratio=0.8)
    with pytest.raises(TypeError, match="traced with example inputs"):
        pitome_fx.tokens(case.model, ratio=0.8)


def test_a_program_for_many_batches_runs_on_another() -> None:
    case = by_hand()
    batch = torch.export.Dim("batch")
    program = torch.export.export(case.model, case.args, dynamic_shapes=({0: batch},))
    x = torch.randn(5, 24, 24)
    for one, other in zip(
        pitome_fx.tokens(program, (x,), ratio=0.8),
        pitome_fx.tokens(case.model, (x,), ratio=0.8),
        strict=True,
    ):
        assert torch.equal(one.assignment, other.assignment) and one.sizes.shape[0] == 5
        assert one.grid == other.grid == Grid((24,), 1)


def test_keyword_inputs_may_come_in_any_order() -> None:
    case = bert()
    program = export(case.model, (), case.kwargs)
    turned = dict(reversed(case.kwargs.items()))
    for one, other in zip(
        looked_at(case, ratio=0.8), pitome_fx.tokens(program, (), turned, ratio=0.8), strict=True
    ):
        assert torch.equal(one.assignment, other.assignment)


def test_nothing_where_nothing_merges() -> None:
    case = by_hand()
    assert looked_at(case, ratio=1.0) == []
    with pytest.warns(PitomeWarning, match="runs dense.*too few tokens") as caught:
        assert looked_at(case, min_tokens=100) == []
    assert caught[0].filename == __file__
    with pytest.raises(RefusedError, match="too few tokens"):
        looked_at(case, min_tokens=100, strict=True)


def test_scores_of_a_plugin_are_its_own(plugin: str) -> None:
    case = by_hand(depth=1)
    how = {"r": 4, "algorithm": plugin, "algorithm_options": {"step": 3}}
    (merge,) = looked_at(case, **how)
    assert merge.scores is not None and merge.scores.shape == (2, 25)
    assert merge.scores[:, 0].isnan().all() and merge.scores[:, 1:].isfinite().all()
    del ALGORITHMS[plugin]
    register(plugin, metric="hidden")(next_one)
    assert looked_at(case, **how)[0].scores is None


RANKS = {
    "pitome": lambda order, k: order[: 2 * k : 2],
    "pitome-elu": lambda order, k: order[: 2 * k : 2],
    "pitome-vision": lambda order, k: order[::2],
    "pitome-bsm": lambda order, k: order[::2],
    "pitome-mean": lambda order, k: order[::2],
    "pitome-text": lambda order, k: order[:k],
    "crossget": lambda order, k: order[:k],
    "evit": lambda order, k: order[-k:],
    "gtp": lambda order, k: order[-k:],
    "msvit": lambda order, k: order[-k:],
    "dpc-knn": lambda order, k: order[-k:],
    "ailurus": lambda order, k: order[-k:],
}
"""Which tokens may move, of tokens by decreasing score."""
UNRANKED = {"tome", "tofu", "mctf", "random", "strided"}


def test_every_algorithm_says_what_it_ranks_by_or_that_it_does_not() -> None:
    assert {name for name, own in ALGORITHMS.items() if own.scores is None} == UNRANKED
    assert set(RANKS) == set(ALGORITHMS) - UNRANKED


@pytest.mark.parametrize("name", RANKS)
def test_tokens_move_by_their_scores(name: str) -> None:
    k, own = 6, ALGORITHMS[name]
    given = {key: parameter.default for key, parameter in own.parameters.items()}
    tokens = tokens_for(name, torch.randn(4, 25, 6), k)
    assert own.scores is not None
    scores, match = own.scores(tokens, **given), own.match(tokens, **given)
    assert scores.shape == (4, 25)
    for ranked, moved in zip(scores, match.moved, strict=True):
        order = ranked.argsort(descending=True, stable=True).tolist()
        assert set(moved.tolist()) <= set(RANKS[name](order, k))

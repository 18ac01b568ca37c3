"""The options that say which blocks merge, how much, and which tokens stay alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pitome_fx
from pitome_fx import OptionsError
from pitome_fx.frontends.transform import spelled_out_layers
from tests.support.blocks import SPELLINGS, Block, by_hand
from tests.support.models import TIMM, Case, bert, encoder, randomised, timm_vit
from tests.support.oracle import (
    assert_keeps_the_law,
    counts,
    explained,
    pitome_nodes,
    relative_error,
    transformed,
)


@pytest.mark.parametrize("target", [0.8, 0.6, 0.5])
def test_flops_target_is_met(target: float) -> None:
    """On a model of the shape of ViT-Tiny: twelve blocks, 197 tokens, 192 channels."""
    case = timm_vit(tokens=196, depth=12, embed_dim=192)
    report = explained(case, flops=target)
    assert report.flops_after / report.flops_before == pytest.approx(target, abs=0.02)
    assert report.merged == 12


def test_the_default_is_sixty_percent_of_the_flops() -> None:
    case = timm_vit(tokens=196, depth=6, embed_dim=96)
    assert counts(explained(case)) == counts(explained(case, flops=0.6))


def test_a_target_out_of_reach_is_said() -> None:
    report = explained(timm_vit(), flops=0.05)
    assert any("flops=0.05 is out of reach" in note for note in report.notes)
    assert "out of reach" in str(report)


def test_r_tokens_go_per_block() -> None:
    assert counts(explained(timm_vit(), r=5)) == [(37, 32), (32, 27), (27, 22)]


def test_r_is_at_most_half_of_the_tokens() -> None:
    assert counts(explained(timm_vit(), r=30)) == [(37, 19), (19, 10), (10, 6)]


def test_a_schedule_gives_every_block_its_ratio() -> None:
    assert counts(explained(timm_vit(), schedule=[1.0, 0.5, 0.75])) == [
        (37, 37),
        (37, 19),
        (19, 15),
    ]


def test_a_schedule_of_the_wrong_length_says_how_many_blocks_there_are() -> None:
    case = timm_vit()
    with pytest.raises(OptionsError, match=r"schedule=\[0\.9, 0\.8\] has 2 values, but 3 blocks"):
        transformed(case, schedule=[0.9, 0.8])
    transformed(case, schedule=[0.9, 0.8], blocks=[0, 2])


def test_chosen_blocks_merge() -> None:
    report = explained(timm_vit(), ratio=0.8, blocks=[1])
    assert [block.merged for block in report.blocks] == [False, True, False]
    assert report.blocks[0].reason == "excluded by the option blocks"


def test_too_few_tokens_do_not_merge() -> None:
    report = explained(timm_vit(), ratio=0.5, min_tokens=20)
    assert [block.merged for block in report.blocks] == [True, False, False]
    assert report.blocks[1].reason == "too few tokens: 19, and min_tokens is 20"


PROTECTED = {
    "vit": 1,
    "vit-mean-pool": 0,
    "deit-distilled": 2,
    "dinov2-registers": 5,
    "beit": 1,
    "siglip": 0,
}


@pytest.mark.parametrize("name", PROTECTED)
def test_protected_tokens_are_found(name: str) -> None:
    done = assert_keeps_the_law(TIMM[name]().to(torch.float64), r=8)
    front = PROTECTED[name]
    assert [node.args[5] for node in pitome_nodes(done.graph, "match")] == [front] * 3
    groups = done.assignments[-1]
    assert groups[:, :front].tolist() == [list(range(front))] * 2
    assert bool((groups[:, front:] >= front).all())


class Joined(nn.Module):
    """A learned token before the others, that nothing reads by its place."""

    def __init__(self, join: Callable[..., Tensor]) -> None:
        super().__init__()
        self.join = join
        self.token = nn.Parameter(torch.randn(1, 1, 24))
        self.blocks = nn.ModuleList(Block(24, 3, SPELLINGS["sdpa"]) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.join([self.token.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


@pytest.mark.parametrize("join", [torch.cat, torch.concat, torch.concatenate])
def test_learned_tokens_are_protected_however_they_are_joined(join: Callable[..., Tensor]) -> None:
    case = Case(randomised(Joined(join)), (torch.randn(2, 24, 24),))
    graph = transformed(case, ratio=0.8)
    assert [node.args[5] for node in pitome_nodes(graph, "match")] == [1, 1]


@pytest.mark.parametrize("protect", [0, 1, 6])
def test_protect_says_how_many_leading_tokens_stay_alone(protect: int) -> None:
    done = assert_keeps_the_law(by_hand(pool="mean").to(torch.float64), ratio=0.5, protect=protect)
    groups = done.assignments[-1]
    for item in groups:
        alone = [int((item == item[i]).sum()) == 1 for i in range(protect)]
        assert all(alone)
    assert groups[:, :protect].tolist() == [list(range(protect))] * 2


@pytest.mark.parametrize("build", [timm_vit, bert, encoder])
def test_hidden_states_as_metric(build: Any) -> None:
    case = build().to(torch.float64)
    hidden = assert_keeps_the_law(case, ratio=0.8, metric="hidden")
    keys = assert_keeps_the_law(case, ratio=0.8, metric="keys")
    assert relative_error(hidden.output, keys.output) > 1e-4


@pytest.mark.parametrize("name", ["vit", "bert", "matmul"])
def test_attention_that_is_not_proportional(name: str) -> None:
    builders = {"vit": timm_vit, "bert": bert, "matmul": lambda: by_hand("matmul")}
    case = builders[name]().to(torch.float64)
    plain = assert_keeps_the_law(case, ratio=0.8, proportional=False)
    assert relative_error(plain.output, assert_keeps_the_law(case, ratio=0.8).output) > 1e-4
    assert "not proportional" in str(explained(case, ratio=0.8, proportional=False))


@pytest.mark.parametrize("how", [{"ratio": 0.8}, {"r": 5}, {"flops": 0.5}], ids=str)
def test_counts_are_rounded_up_to_a_multiple(how: dict[str, Any]) -> None:
    case = timm_vit(tokens=196, depth=6, embed_dim=48)
    plain, rounded = (explained(case, round_to=n, **how) for n in (1, 8))
    assert rounded.merged
    for exact, block in zip(plain.blocks, rounded.blocks, strict=True):
        # A block that removes nothing is shown with all tokens of its model.
        if block.merged:
            assert block.tokens_after % 8 == 0
            assert exact.tokens_after <= block.tokens_after < exact.tokens_after + 8


def test_what_rounding_leaves_too_many_goes_with_a_later_merge() -> None:
    # 1 + 36 tokens, of which 3 go at a time: 34, 31, 28; as multiples of 8 these are 40, 32, 32.
    report = explained(timm_vit(), r=3, round_to=8)
    assert [block.merged for block in report.blocks] == [False, True, False]
    assert counts(report)[1] == (37, 32)
    assert "round_to=8" in (report.blocks[0].reason or "")


def test_rounded_counts_keep_the_law() -> None:
    assert_keeps_the_law(timm_vit(tokens=196, depth=4, embed_dim=48), ratio=0.8, round_to=16)
    assert_keeps_the_law(bert(padded=True), ratio=0.6, round_to=4)


def test_lengths_that_are_symbols_are_not_rounded_and_it_is_said() -> None:
    layer = nn.TransformerEncoderLayer(24, 3, 48, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    length = torch.export.Dim("length", min=16, max=512)
    with spelled_out_layers():
        program = torch.export.export(
            model, (torch.randn(2, 24, 24),), dynamic_shapes=({1: length},)
        )
    report = pitome_fx.explain(program, ratio=0.8, round_to=8)
    assert report.merged and "round_to=8: token counts that are symbols" in str(report)

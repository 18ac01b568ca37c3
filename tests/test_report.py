"""explain: a verdict for every attention site, and what the rewrite had to do."""

import inspect
import json

import pytest
import torch
from torch import nn

import pitome_fx
from pitome_fx import OptionsError, PitomeWarning, Report
from tests.support.blocks import by_hand, in_two_graphs
from tests.support.models import timm_vit
from tests.support.oracle import counts, explained


class TestReport:
    """What explain says of a ViT of three blocks with 36 patches and a class token."""

    @pytest.fixture(scope="class")
    @classmethod
    def report(cls) -> Report:
        torch.manual_seed(0)
        return explained(timm_vit(), ratio=0.8)

    def test_every_attention_has_a_verdict(self, report: Report) -> None:
        assert [block.number for block in report.blocks] == [0, 1, 2]
        modules = [block.module for block in report.blocks]
        assert modules == ["blocks.0.attn", "blocks.1.attn", "blocks.2.attn"]
        assert all(block.merged and block.reason is None for block in report.blocks)
        assert report.merged == 3

    def test_token_counts(self, report: Report) -> None:
        assert counts(report) == [(37, 30), (30, 25), (25, 20)]

    def test_flops_fall(self, report: Report) -> None:
        assert 0 < report.flops_after < report.flops_before

    def test_a_plain_vit_needs_no_lift_and_no_projection(self, report: Report) -> None:
        assert report.lifts == () and report.projections == ()

    def test_text_is_a_table_with_every_site_and_the_flops(self, report: Report) -> None:
        text = str(report)
        for block in report.blocks:
            assert block.module in text
            assert f"{block.tokens_before} → {block.tokens_after}" in text
        assert "pitome" in text and "3 of 3" in text
        assert f"{report.flops_after / report.flops_before:.1%}" in text

    def test_regions_are_counted_where_they_are_compiled(self, report: Report) -> None:
        assert report.regions > report.kinds > 1
        assert f"{report.regions} regions of {report.kinds} kinds" in str(report)
        whole = explained(timm_vit(), ratio=0.8, regions=False)
        assert (whole.regions, whole.kinds) == (0, 0) and "regions" not in str(whole)

    def test_json_holds_every_field(self, report: Report) -> None:
        data = json.loads(report.to_json(indent=1))
        assert data["blocks"][0] == {
            "number": 0,
            "graph": 0,
            "module": "blocks.0.attn",
            "tokens_before": 37,
            "tokens_after": 30,
            "merged": True,
            "reason": None,
        }
        assert data["flops_before"] == report.flops_before
        assert data["algorithm"] == "pitome-mean" and data["proportional"] is True
        assert {"lifts", "projections", "flops_after", "notes", "seconds"} <= set(data)


def test_explain_leaves_the_model_alone() -> None:
    case = timm_vit()
    before = case.model(*case.args)
    explained(case, ratio=0.8)
    assert torch.equal(case.model(*case.args), before)


def test_every_graph_of_a_model_is_in_the_report() -> None:
    report = explained(in_two_graphs(), ratio=0.8)
    assert [block.graph for block in report.blocks] == [0, 1]
    assert report.merged == 2


def test_lifts_and_projections_say_where_and_why() -> None:
    grid = by_hand(pool="none", depth=2)

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = grid.model
            self.order = nn.Parameter(torch.randn(2, 25, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.body(x) * self.order).cumsum(1)[:, -1]

    report = pitome_fx.explain(Pooled().eval(), grid.args, ratio=0.8)
    assert [(lift.op, lift.why) for lift in report.lifts] == [
        ("aten.cumsum.default", "the order of tokens matters")
    ]
    assert [place.op for place in report.projections] == ["aten.mul.Tensor"]
    assert "cumsum" in str(report) and "Merged along" in str(report)


def test_nothing_found_is_a_report_too() -> None:
    report = pitome_fx.explain(nn.Linear(8, 8), (torch.randn(2, 8),))
    assert report.blocks == () and report.merged == 0
    assert report.flops_after == report.flops_before > 0
    assert "0 of 0" in str(report)


def test_an_exported_program_is_explained_as_the_module_is() -> None:
    case = timm_vit()
    program = torch.export.export(case.model, case.args)
    assert counts(pitome_fx.explain(program, ratio=0.8)) == counts(explained(case, ratio=0.8))


def test_a_refused_model_is_explained_without_a_warning() -> None:
    layer = nn.TransformerDecoderLayer(24, 3, 48, batch_first=True)
    x, memory = torch.randn(2, 24, 24), torch.randn(2, 10, 24)
    causal = nn.Transformer.generate_square_subsequent_mask(24)
    report = pitome_fx.explain(layer.eval(), (x, memory), {"tgt_mask": causal}, ratio=0.8)
    assert [block.merged for block in report.blocks] == [False, False]
    assert "structured attention mask" in str(report.blocks[0].reason)
    assert "cross-attention" in str(report.blocks[1].reason)
    with pytest.warns(PitomeWarning, match="cross-attention"):
        pitome_fx.transform(layer, (x, memory), {"tgt_mask": causal}, ratio=0.8)


@pytest.mark.parametrize("named", [False, True])
def test_the_old_spelling_of_explain_still_works(named: bool) -> None:
    """Inputs one by one, options in a dict: with a warning that says what to write."""
    case = timm_vit()
    name = next(iter(inspect.signature(case.model.forward).parameters))
    given, own = ((), {name: case.args[0]}) if named else (case.args, {})
    with pytest.warns(FutureWarning, match=r"write pitome_fx\.explain\(model, args, kwargs"):
        report = pitome_fx.explain(case.model, *given, options={"ratio": 0.8}, **own)
    assert counts(report) == counts(explained(case, ratio=0.8))


def test_a_wrong_option_of_explain_is_no_input() -> None:
    with pytest.raises(OptionsError, match="Did you mean 'ratio'"):
        pitome_fx.explain(nn.Linear(8, 8), (torch.randn(2, 8),), ratoi=0.9)

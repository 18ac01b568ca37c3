"""explain(…, html=…): what the page says, and that it needs nothing but itself."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import pitome_fx
from pitome_fx import Options, OptionsError, Report
from pitome_fx.ops import OPS
from pitome_fx.page.lines import KIND_OF, KINDS
from pitome_fx.page.pairing import pairs
from pitome_fx.passes import pipeline
from pitome_fx.passes.capture.guards import tentative
from pitome_fx.passes.capture.program import capture_exported
from pitome_fx.passes.dissolve.exported import inputs_of
from tests.support.blocks import BY_HAND, by_hand, in_two_graphs
from tests.support.html import Element, parsed
from tests.support.models import HUGGING_FACE, TORCH, Case, bert, timm_vit
from tests.support.oracle import explained

Shown = tuple[Report, str]


def paged(case: Case, folder: Path, **options: Any) -> Shown:
    """The report on a model, and its page."""
    path = folder / "report.html"
    report = explained(case, html=path, **options)
    return report, path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    # Of a fixture for the whole module nobody else sees to it: sizes seen before are symbols.
    torch._dynamo.reset()
    torch.manual_seed(0)
    return paged(timm_vit(), tmp_path_factory.mktemp("vit"), ratio=0.8)


def section(page: Element, title: str) -> list[Element]:
    """The elements below a heading, up to the next."""
    (main,) = page.all("main")
    elements = [one for one in main.inside if isinstance(one, Element)]
    (start,) = (i for i, one in enumerate(elements) if one.name == "h2" and one.text == title)
    after = elements[start + 1 :]
    end = next((i for i, one in enumerate(after) if one.name == "h2"), len(after))
    return after[:end]


def table(page: Element, title: str) -> list[list[str]]:
    """The rows of the table below a heading."""
    below = Element("section", {}, list(section(page, title)))
    (found,) = below.all("table")
    return found.rows()


def called(line: str) -> str:
    """What is before the operands of a line: a name, or ``return``."""
    return re.split(r" = |\(", line)[0]


def test_every_attention_has_its_verdict(vit: Shown) -> None:
    report, page = vit
    rows = table(parsed(page), "Attention sites")
    assert rows == [
        [str(b.number), b.module, f"{b.tokens_before} → {b.tokens_after}", "merged"]
        for b in report.blocks
    ]


def test_flops_of_the_parts_add_up_to_those_of_the_report(vit: Shown) -> None:
    report, page = vit
    *parts, total = table(parsed(page), "FLOPs")
    assert [name for name, *_ in parts] == [
        "patch_embed",
        *(f"blocks.{i}" for i in range(3)),
        "head",
    ]
    numbers = [cells[1].split(" → ") for cells in parts]
    for end, flops in ((0, report.flops_before), (-1, report.flops_after)):
        assert sum(float(cell[end]) for cell in numbers) == pytest.approx(flops / 1e6, abs=0.003)
        assert float(total[1].split(" → ")[end]) == pytest.approx(flops / 1e6, abs=0.001)
    assert total[2] == f"{report.flops_after / report.flops_before:.1%}"


def test_flops_of_a_block_are_those_that_torch_counts(vit: Shown) -> None:
    case = timm_vit()
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter, torch.no_grad():
        case.model(*case.args)
    for name, flops, _ in table(parsed(vit[1]), "FLOPs")[1:4]:
        counted = sum(counter.get_flop_counts()[f"VisionTransformer.{name}"].values())
        assert float(flops.split(" → ")[0]) == pytest.approx(counted / 1e6, abs=0.001)


def test_both_graphs_are_shown_beside_each_other(vit: Shown) -> None:
    _, page = vit
    sides = list(parsed(page).all("div", "sides"))
    assert sides
    for side in sides:
        before, after = (one.text.split("\n") for one in side.all("pre"))
        assert len(before) == len(after)
        assert not any("pitome." in line for line in before)
        for dense, merged in zip(before, after, strict=True):
            # What is on both sides is called alike, whatever its operands are called by now.
            assert not dense or called(dense) == called(merged)
    after = [line for side in sides for line in list(side.all("pre"))[1].text.split("\n")]
    assert sum("= pitome.merge(" in line for line in after) == 3
    mlp = r"linear_2 = linear\(layer_norm_1, weight, bias\) +\[2,30,192\]"
    assert any(re.fullmatch(mlp, line) for line in after)


def test_what_merging_adds_has_a_colour(vit: Shown) -> None:
    page = parsed(vit[1])
    coloured = {kind: [b.text for p in page.all("pre") for b in p.all("b", kind)] for kind in KINDS}
    assert all("pitome.match(" in line for line in coloured["match"])
    assert len(coloured["match"]) == len(coloured["merge"]) == 3
    # Two of three blocks attend to merged tokens.
    assert sum(" = log(" in line for line in coloured["size"]) == 2
    assert all(f"b.{kind} " in vit[1] for kind in KINDS)
    assert KIND_OF.keys() == OPS.keys() and set(KIND_OF.values()) < KINDS.keys()


def test_alike_blocks_are_folded(vit: Shown) -> None:
    shown = {
        (one.attributes.get("class"), next(one.all("code")).text): one
        for one in parsed(vit[1]).all("details")
        if any(one.all("div", "sides"))
    }
    blocks = {name: one for (_, name), one in shown.items() if name.startswith("blocks")}
    opened = {name: "open" in one.attributes for name, one in blocks.items()}
    assert opened == {"blocks.0": True, "blocks.1": False, "blocks.2": False}
    titles = [next(one.all("summary")).text for one in blocks.values()]
    assert titles == [
        "blocks.0 match merge size 37 → 30 tokens",
        "blocks.1 match merge size 30 → 25 tokens",
        "blocks.2 match merge size 25 → 20 tokens, as blocks.1",
    ]


def test_unmerges_and_projections_are_listed_and_coloured(tmp_path: Path) -> None:
    grid = by_hand(pool="none", depth=2)

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = grid.model
            self.order = nn.Parameter(torch.randn(2, 25, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.body(x) * self.order).cumsum(1)[:, -1]

    _, text = paged(Case(Pooled().eval(), grid.args), tmp_path, ratio=0.8)
    page = parsed(text)
    why = "the order of tokens matters"
    assert table(page, "Unmerged") == [["(top level)", "aten.cumsum.default", why, "1"]]
    (along,) = table(page, "Merged along")
    assert along[1] == "aten.mul.Tensor"
    for kind, op in (("unmerge", "pitome.unmerge("), ("along", "pitome.project(")):
        assert any(op in one.text for pre in page.all("pre") for one in pre.all("b", kind))


def test_a_padded_model_keeps_its_rows_in_step(tmp_path: Path) -> None:
    _, text = paged(bert(), tmp_path, ratio=0.8)
    for side in parsed(text).all("div", "sides"):
        before, after = (one.text.split("\n") for one in side.all("pre"))
        for dense, merged in zip(before, after, strict=True):
            assert not dense or called(dense) == called(merged)


MODELS = {**TORCH, **BY_HAND, "bert-eager": HUGGING_FACE["bert-eager"], "vit": timm_vit}


@pytest.mark.parametrize("name", MODELS)
def test_every_node_of_both_graphs_is_shown_once_and_in_order(name: str) -> None:
    case = MODELS[name]()
    program = torch.export.export(case.model, case.args, dict(case.kwargs))
    with tentative(inputs_of(program)):
        outcome = pipeline.run(lambda: capture_exported(program), Options(ratio=0.8))
    assert outcome.rewritten is not None
    rows = pairs(outcome.program.graph, outcome.rewritten.graph)
    for shown, graph in (
        ([row.dense for row in rows if row.dense], outcome.program.graph),
        ([row.merged for row in rows if row.merged], outcome.rewritten.graph),
    ):
        assert shown == [node for node in graph.graph.nodes if node.op != "placeholder"]
    # Nothing of the model is gone: all that merging changes is what is added.
    assert all(row.merged for row in rows)


def test_a_constant_of_the_forward_is_not_added_by_merging(tmp_path: Path) -> None:
    case = by_hand(depth=2)

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = case.model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x * torch.tensor([2.0] * 24)) * torch.tensor([3.0])

    _, text = paged(Case(Scaled().eval(), case.args), tmp_path, ratio=0.8)
    held = [line for pre in parsed(text).all("pre") for line in pre.text.split("\n")]
    assert sum(" = constant" in line for line in held) == 4
    added = [line.text for pre in parsed(text).all("pre") for line in pre.all("b", "added")]
    assert added and not any("_tensor_constant" in line for line in added)


def test_where_nothing_merges_it_says_why(tmp_path: Path) -> None:
    layer = nn.TransformerDecoderLayer(24, 3, 48, batch_first=True).eval()
    x, memory = torch.randn(2, 24, 24), torch.randn(2, 10, 24)
    causal = nn.Transformer.generate_square_subsequent_mask(24)
    report, text = paged(Case(layer, (x, memory), {"tgt_mask": causal}), tmp_path, ratio=0.8)
    page = parsed(text)
    assert report.merged == 0 and not list(page.all("svg"))
    (why,) = (one.text for one in page.all("p", "dense"))
    assert "The model runs dense" in why and "cross-attention" in why
    verdicts = [verdict for *_, verdict in table(page, "Attention sites")]
    assert verdicts == [f"dense: {block.reason}" for block in report.blocks]
    assert any("scaled_dot_product_attention(" in pre.text for pre in page.all("pre"))


def test_every_graph_is_shown(tmp_path: Path) -> None:
    _, text = paged(in_two_graphs(), tmp_path, ratio=0.8)
    page = parsed(text)
    assert [one.text for one in page.all("h3")] == [f"Graph {i}: before and after" for i in (0, 1)]
    assert [row[1] for row in table(page, "Attention sites")] == ["0", "1"]


def test_a_model_without_a_graph_has_a_page_of_notes(tmp_path: Path) -> None:
    def untraced(x: torch.Tensor) -> list[float]:
        torch._dynamo.graph_break()
        return [1.0]

    path = tmp_path / "report.html"
    report = pitome_fx.explain(torch.compiler.disable(untraced), (torch.ones(2),), html=path)
    page = parsed(path.read_text(encoding="utf-8"))
    assert report.notes
    for note in report.notes:
        assert any(note == one.text for one in page.all("li"))
    assert "the notes say why" in next(page.all("p", "dense")).text


def test_an_exported_program_has_a_page(tmp_path: Path) -> None:
    case = timm_vit()
    program = torch.export.export(case.model, case.args)
    pitome_fx.explain(program, html=tmp_path / "a.html", ratio=0.8)
    page = parsed((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert any("= layer_norm(dropout, [48], weight, bias" in pre.text for pre in page.all("pre"))


@pytest.mark.parametrize(
    ("given", "amount"),
    [
        ({"ratio": 0.8, "blocks": (0, 2), "algorithm": "pitome"}, {}),
        ({"algorithm_options": {"margin": 0.5}, "algorithm": "pitome"}, {"flops": 0.6}),
        ({}, {"flops": 0.6}),
    ],
    ids=str,
)
def test_options_can_be_given_again(
    given: dict[str, Any], amount: dict[str, Any], tmp_path: Path
) -> None:
    _, text = paged(by_hand(depth=3), tmp_path, **given)
    page = parsed(text)
    expected = Options(**given, **amount)
    assert Options.from_json(page.by_id("options").text) == expected
    found: list[Options] = []
    line, compiled = page.by_id("python").text.split("\n")
    known: dict[str, Any] = {"model": None, "args": (), "kwargs": {}}
    known["pitome_fx"] = type("", (), {"explain": lambda *_, **own: found.append(Options(**own))})
    known["torch"] = type(
        "", (), {"compile": lambda *_, options, **__: found.append(Options(**options))}
    )
    eval(line, known)
    eval(compiled, known)
    assert found == [expected, expected]


def test_options_without_a_json_form_are_shown(tmp_path: Path) -> None:
    given = {"ratio": 0.8, "lowering": "eager", "lowering_options": {"precisions": {torch.half}}}
    _, text = paged(by_hand(), tmp_path, **given)
    page = parsed(text)
    assert "precisions" in page.by_id("python").text
    assert "JSON has no form" in text and 'id="options"' not in text


EVIL = '<img src=x onerror=alert(1)>&"'


def test_what_the_model_says_is_text(tmp_path: Path) -> None:
    own = type(f"Named{EVIL}", (nn.Module,), {"forward": lambda self, x: self.parts[EVIL](x)})
    model = own()
    model.parts = nn.ModuleDict({EVIL: by_hand(depth=2).model})
    _, text = paged(Case(model.eval(), by_hand(depth=2).args), tmp_path, ratio=0.8)
    page = parsed(text)
    assert not list(page.all("img")) and "<img" not in text
    assert EVIL in next(page.all("h1")).text
    assert any(EVIL in row[1] for row in table(page, "Attention sites"))


def test_it_needs_nothing_but_itself(vit: Shown) -> None:
    page = parsed(vit[1])
    names = {one.name for one in page.all()}
    assert not names & {"script", "link", "iframe", "object", "base"}
    for one in page.all():
        assert not {"href", "srcset", "action"} & one.attributes.keys()
        assert (one.attributes.get("src") or "data:").startswith("data:")
        assert not any(key.startswith("on") for key in one.attributes)
    assert "http://" not in vit[1] and "https://" not in vit[1]
    (style,) = page.all("style")
    assert "url(" not in style.text and "@import" not in style.text
    metas = {
        one.attributes.get("name") or one.attributes.get("http-equiv") for one in page.all("meta")
    }
    assert {"viewport", "Content-Security-Policy"} <= metas


def test_a_large_model_has_a_small_page(tmp_path: Path) -> None:
    """5,000 nodes are less than 3 MB, by what twelve blocks add to three."""

    def sizes(depth: int) -> tuple[int, int]:
        _, text = paged(timm_vit(depth=depth), tmp_path, ratio=0.9)
        before = [next(side.all("pre")).text for side in parsed(text).all("div", "sides")]
        return sum(lines.count(" = ") for lines in before), len(text.encode())

    (few, small), (many, large) = sizes(3), sizes(12)
    assert many - few > 9 * 20
    assert (large - small) / (many - few) * 5000 < 2e6


@pytest.mark.parametrize("place", ["no/report.html", "."])
def test_a_page_that_cannot_be_written_is_said_before_the_work(place: str, tmp_path: Path) -> None:
    def never(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the model was run")

    with pytest.raises(OptionsError, match=r"html='.*there is no folder|html='.*is a folder"):
        pitome_fx.explain(never, (torch.ones(2),), html=tmp_path / place)


def test_a_full_disk_is_one_sentence() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with pytest.raises(OptionsError, match=r"html='/dev/full' cannot be written: No space"):
        pitome_fx.explain(nn.Linear(8, 8), (torch.randn(2, 8),), html="/dev/full")


LAZY = """
import sys
import pitome_fx

assert not any(name.startswith("pitome_fx.page") for name in sys.modules)
"""


def test_it_is_not_imported_before_it_is_wanted(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LAZY], cwd=tmp_path, check=True)

"""Pictures on the page of a report, where the inputs are images."""

import base64
import importlib.util
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pitome_fx
from pitome_fx.page.drawing import NO_MATPLOTLIB
from tests.support.browser import CHROMIUM, shown
from tests.support.html import Element, parsed
from tests.support.models import Case, bert, timm_vit
from tests.support.oracle import explained


def paged(case: Case, folder: Path, **options: object) -> Element:
    """The page of a model."""
    path = folder / "report.html"
    explained(case, html=path, **options)
    return parsed(path.read_text(encoding="utf-8"))


def titles(page: Element) -> list[str]:
    """Of the pictures, each of which is a PNG that is wider than nothing."""
    for image in page.all("img"):
        kind, _, data = str(image.attributes["src"]).partition(",")
        raw = base64.b64decode(data)
        assert kind == "data:image/png;base64" and raw[1:4] == b"PNG"
        assert min(struct.unpack(">2I", raw[16:24])) > 100
    return [str(image.attributes["alt"]) for image in page.all("img")]


GROUPS, RANKS = "Groups of tokens on the first image", "What tokens are ranked by"
TEXT = "Groups of tokens of the first text, by their ids"


def test_images_are_shown_with_their_groups_and_scores(tmp_path: Path) -> None:
    assert titles(paged(timm_vit(), tmp_path, ratio=0.8)) == [GROUPS, RANKS]


def test_an_algorithm_that_ranks_nothing_has_no_scores(tmp_path: Path) -> None:
    assert titles(paged(timm_vit(), tmp_path, ratio=0.8, algorithm="tome")) == [GROUPS]


def test_texts_are_shown_by_their_ids(tmp_path: Path) -> None:
    assert titles(paged(bert(), tmp_path, ratio=0.8)) == [TEXT]


@pytest.mark.parametrize("build", [bert, timm_vit])
def test_dense_models_have_none(build: Callable[[], Case], tmp_path: Path) -> None:
    page = paged(build(), tmp_path, ratio=1.0)
    assert titles(page) == [] and "Pictures" not in [one.text for one in page.all("h2")]


def test_an_exported_program_brings_its_own_images(tmp_path: Path) -> None:
    case = timm_vit()
    program = torch.export.export(case.model, case.args)
    pitome_fx.explain(program, html=tmp_path / "a.html", ratio=0.8)
    page = parsed((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert titles(page) == [GROUPS, RANKS]


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec

    def without(name: str, *more: str | None) -> object:
        return None if name == "matplotlib" else found(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    page = paged(timm_vit(), tmp_path, ratio=0.8)
    assert titles(page) == [] and NO_MATPLOTLIB in [one.text for one in page.all("p")]


def test_where_it_cannot_be_drawn_it_says_why(tmp_path: Path) -> None:
    """torch.export needs one graph, explain does not."""
    vit = timm_vit()

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = vit.model

        def forward(self, x: Tensor) -> Tensor:
            y = self.vit(x)
            return y + 1 if y.sum().item() > 0 else y

    page = paged(Case(Broken().eval(), vit.args), tmp_path, ratio=0.8)
    assert titles(page) == []
    why = next(one.text for one in page.all("p") if one.text.startswith("There are no pictures"))
    assert "torch.export cannot trace this model" in why


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
def test_they_fit_on_a_phone(tmp_path: Path) -> None:
    explained(timm_vit(), html=tmp_path / "report.html", ratio=0.8)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    seen = shown(text, tmp_path / "browser", 390)
    assert seen.console == [] and seen.measured["width"] <= 390
    assert len(seen.measured["images"]) == 2 and min(seen.measured["images"]) > 390


def test_a_function_has_a_page_without_pictures(tmp_path: Path) -> None:
    case, page = timm_vit(), tmp_path / "a.html"
    pitome_fx.explain(lambda x: case.model(x), case.args, html=page, ratio=0.8)
    assert titles(parsed(page.read_text())) == []
    assert "There are no pictures: only a module" in page.read_text()

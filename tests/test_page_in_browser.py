"""The page of a report in a real browser: on a phone, in the dark, and without errors."""

from pathlib import Path

import pytest
import torch

from pitome_fx.options import Options
from pitome_fx.page.contents import Contents
from pitome_fx.page.layout import POLICY, page
from pitome_fx.report import Report
from tests.support.browser import CHROMIUM, shown
from tests.support.models import bert, timm_vit
from tests.support.oracle import explained

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")

PHONE, DESK = 390, 1200
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d4944415478da63fccfc0500f0004850180a5cb5d0a0000000049454e44ae426082"
)
DRAWING = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="900" height="9"><script>alert(1)</script></svg>'
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pages of models with short and with long paths, merged and not."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pages")
    made = {
        "vit": (timm_vit(), {"ratio": 0.8}),
        "bert": (bert(), {"ratio": 0.8}),
        "dense": (bert(), {"blocks": ()}),
    }
    for name, (case, options) in made.items():
        explained(case, html=folder / f"{name}.html", **options)
    return {name: (folder / f"{name}.html").read_text(encoding="utf-8") for name in made}


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("name", ["vit", "bert", "dense"])
def test_it_loads_without_errors_and_fits(
    name: str, width: int, pages: dict[str, str], tmp_path: Path
) -> None:
    seen = shown(pages[name], tmp_path, width, unfold=True)
    assert seen.console == []
    assert seen.measured["width"] <= width and seen.measured["clipped"] == 0
    text = seen.measured["text"]
    assert "Attention sites" in text and "scaled_dot_product_attention(" in text
    assert all(bar > 1 for bar in seen.measured["bars"])
    merged = name != "dense"
    assert ("pitome.merge(" in text) == bool(seen.measured["merges"]) == merged
    assert bool(seen.measured["bars"]) == merged


def test_what_is_folded_is_hidden_until_it_is_unfolded(
    pages: dict[str, str], tmp_path: Path
) -> None:
    folded, unfolded = (
        shown(pages["vit"], folder, PHONE, unfold=unfold).measured["text"]
        for folder, unfold in ((tmp_path / "a", False), (tmp_path / "b", True))
    )
    assert folded.count("pitome.merge(") == 1 and unfolded.count("pitome.merge(") == 3


def test_it_is_dark_where_that_is_asked_for(pages: dict[str, str], tmp_path: Path) -> None:
    light, dark = (
        shown(pages["vit"], tmp_path / name, PHONE, dark=name == "dark").measured
        for name in ("light", "dark")
    )
    assert luminance(light["paper"]) > 0.9 > 0.1 > luminance(dark["paper"])
    assert luminance(light["ink"][0]) < 0.2 < 0.8 < luminance(dark["ink"][0])
    assert luminance(light["merges"][0]) < 0.5 < luminance(dark["merges"][0])


def luminance(colour: str) -> float:
    """Of ``rgb(r, g, b)``: from 0 to 1."""
    red, green, blue = (int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(","))
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


def test_pictures_are_shown_and_fit(tmp_path: Path) -> None:
    report = Report((), (), (), 0, 0, None, None, "pitome-mean", True, 0, 0, (), {})
    drawn = page(Contents("Model", report, (), Options(), pictures=[("A", PIXEL), ("B", DRAWING)]))
    seen = shown(drawn, tmp_path, PHONE)
    assert seen.console == [] and seen.measured["width"] <= PHONE
    assert seen.measured["images"] == [1, 900]


BAD = {
    "wide": '<p style="width: 600px">text',
    "clipped": '<main style="overflow: hidden"><p style="width: 600px"></p></main>',
    "error": '<script>console.error("wrong")</script>',
    "script": f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><script>1</script>',
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_page_would_be_seen(name: str, tmp_path: Path) -> None:
    seen = shown(BAD[name], tmp_path, PHONE)
    found = {
        "wide": seen.measured["width"] > PHONE,
        "clipped": seen.measured["clipped"] > 0,
        "error": any("wrong" in line for line in seen.console),
        "script": any("Content Security Policy" in line for line in seen.console),
    }
    assert [key for key, wrong in found.items() if wrong] == [name]

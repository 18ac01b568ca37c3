"""Pictures hold what they should: the right colours, lines, bars and words, and no more."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from pitome_fx import MergedTokens, OptionsError, viz
from pitome_fx.frontends.grid import Grid
from pitome_fx.viz.canvas import ALONE
from tests.support.pictures import pixels

GROUPS = [0, 1, 1, 2, 3, 2, 4]
PATCHES = Grid((2, 3), 1)
"""A class token and two rows of three patches: 1 1 2 over 3 2 4."""


def merge(
    groups: list[int] = GROUPS,
    grid: Grid | None = PATCHES,
    scores: Tensor | None = None,
    **changes: Any,
) -> MergedTokens:
    """The first merge of a stream, of one item; or of several, all alike."""
    after = torch.tensor([groups] * changes.pop("items", 1))
    before = torch.arange(len(groups)).expand(len(after), -1)
    given = {
        "number": 0,
        "module": "blocks.0",
        "stream": 0,
        "tokens_before": len(groups),
        "tokens_after": max(groups) + 1,
        "before": before,
        "assignment": after,
        "sizes": torch.stack([row.bincount() for row in after]),
        "scores": scores,
        "front": 1,
        "back": 0,
        "grid": grid,
    }
    return MergedTokens(**{**given, **changes})


def noise(*shape: int) -> Tensor:
    """In [0, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_each_group_has_its_mean_colour_and_its_borders() -> None:
    image = noise(3, 20, 60)
    original, panel = viz.groups(image, merge()).axes
    torch.testing.assert_close(pixels(original), image.movedim(0, -1))
    shown = pixels(panel).movedim(-1, 0)
    top, bottom = image[:, :10], image[:, 10:]
    pair = top[:, :, :40].mean((1, 2), keepdim=True)
    torch.testing.assert_close(shown[:, :10, :40], pair.expand(3, 10, 40))
    apart = torch.cat([top[:, :, 40:], bottom[:, :, 20:40]], 2).mean((1, 2), keepdim=True)
    torch.testing.assert_close(shown[:, :10, 40:], apart.expand(3, 10, 20))
    torch.testing.assert_close(shown[:, 10:, 20:40], apart.expand(3, 10, 20))
    (lines,) = panel.collections
    drawn = {
        tuple(map(tuple, line.tolist())) for line in map(torch.as_tensor, lines.get_segments())
    }
    upright = {((2, 0), (2, 1)), ((1, 1), (1, 2)), ((2, 1), (2, 2))}
    level = {((x, 1), (x + 1, 1)) for x in range(3)}
    assert drawn == upright | level
    assert panel.get_title() == "blocks.0\n7 → 5 tokens"
    width, height = abs(panel.get_xlim()[1]), abs(panel.get_ylim()[0])
    assert (width, height) == (3, 2) and panel.get_aspect() == pytest.approx(10 / 20)


def test_groups_of_a_colour_are_told_and_lone_patches_show_the_image() -> None:
    image = noise(3, 4, 6)
    panel = viz.groups(image, merge(), fill="colours").axes[1]
    shown, grey = pixels(panel), image.mean(0).unsqueeze(-1)
    own = image.movedim(0, -1)
    torch.testing.assert_close(shown[2:, :2], own[2:, :2])
    torch.testing.assert_close(shown[2:, 4:], own[2:, 4:])
    tint = (shown - 0.25 * grey) / 0.75
    torch.testing.assert_close(tint[:2, :4], tint[:1, :1].expand(2, 4, 3))
    torch.testing.assert_close(tint[:2, 4:], tint[2:, 2:4])
    assert float((tint[0, 0] - tint[0, 5]).abs().max()) > 0.1


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "a batch": lambda x: torch.stack([1 - x, x]),
    "numpy, channels last": lambda x: x.movedim(0, -1).numpy(),
    "bytes": lambda x: (255 * x).round().byte(),
    "normalised": lambda x: 4 * x - 2,
    "with opacity": lambda x: torch.cat([x, x[:1]]).movedim(0, -1),
}


@pytest.mark.parametrize("form", FORMS)
def test_images_come_in_many_forms(form: str) -> None:
    image = noise(3, 4, 6)
    image.flatten()[:2] = torch.tensor([0.0, 1.0])
    figure = viz.groups(FORMS[form](image), merge(items=2), item=1)
    # Some forms have eight bits: half a step of them is 1/510.
    torch.testing.assert_close(
        pixels(figure.axes[0]).float(), image.movedim(0, -1), rtol=0, atol=2.1e-3
    )


def test_a_photograph_of_pillow_and_one_in_grey() -> None:
    from PIL import Image

    bands = torch.arange(72, dtype=torch.uint8).reshape(4, 6, 3)
    for given in (Image.fromarray(bands.numpy()), bands):
        torch.testing.assert_close(pixels(viz.groups(given, merge()).axes[0]), bands / 255)
    grey = noise(4, 6)
    wanted = grey.unsqueeze(-1).expand(-1, -1, 3)
    torch.testing.assert_close(pixels(viz.groups(grey, merge()).axes[0]), wanted)


def test_frames_of_one_video_are_items_of_their_own() -> None:
    videos = torch.stack([torch.zeros(3, 4, 6), torch.ones(3, 4, 6)])
    for item, value in enumerate((0, 0, 1, 1)):
        figure = viz.groups(videos, merge(items=4), item=item)
        assert float(pixels(figure.axes[0]).mean()) == value


def test_scores_lie_on_the_patches_of_the_tokens_that_had_them() -> None:
    """Of a second merge: its tokens are groups already."""
    scores = torch.tensor([[torch.nan, 0.5, -1.0, 2.0, 0.25]])
    later = merge(scores=scores, before=torch.tensor([GROUPS]))
    figure = viz.scores(noise(3, 4, 6), later)
    shown = pixels(figure.axes[1])
    assert shown.tolist() == [[0.5, 0.5, -1.0], [2.0, -1.0, 0.25]]
    assert len(figure.axes) == 3, "the image, the map and its scale"


def test_sizes_are_counted_in_powers_of_two() -> None:
    sizes = torch.tensor([[1, 1, 1, 2, 3, 4, 9], [1, 1, 1, 1, 4, 4, 9]])
    heights = {
        item: [bar.get_height() for bar in viz.sizes(merge(sizes=sizes), item=item).axes[0].patches]
        for item in (0, None)
    }
    assert heights[0] == [3, 1, 2, 0, 1]
    assert heights[None] == [3.5, 0.5, 2, 0, 1]
    labels = viz.sizes(merge(sizes=sizes)).axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["1", "2", "3–4", "5–8", "9–16"]


def test_flow_shows_tokens_of_every_stream() -> None:
    merges = [
        merge(number=number, stream=stream, tokens_before=before, tokens_after=after)
        for number, stream, before, after in ((1, 0, 7, 5), (2, 0, 5, 4), (4, 1, 3, 2))
    ]
    (axes,) = viz.flow(merges).axes
    bars = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in axes.patches]
    wanted = [(0, 7), (1, 5), (0, 5), (1, 4), (2, 3), (2, 2)]
    assert [(pytest.approx(x), y) for x, y in wanted] == bars
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4"]
    assert len({to_rgb(bar.get_facecolor()[:3]) for bar in axes.patches}) == 2
    assert len(axes.get_legend().get_texts()) == 2
    assert viz.flow(merges[:2]).axes[0].get_legend() is None


def test_words_of_a_group_share_a_colour_and_a_number() -> None:
    texts = ["[CLS]", "the", "cat", "the", "$", "cat", "the"]
    groups = [0, 1, 2, 1, 3, 2, 1]
    (axes,) = viz.words(texts, merge(groups, Grid((7,), 0))).axes
    boxes = [to_rgb(box.get_facecolor()[:3]) for box in axes.patches]
    assert [boxes.index(colour) for colour in boxes] == [0, 1, 2, 1, 0, 2, 1]
    assert boxes[0] == ALONE
    written = [text.get_text() for text in axes.texts]
    wanted = ["[CLS]", "the", "1", "cat", "2", "the", "1", r"\$", "cat", "2", "the", "1"]
    assert written == wanted
    assert len(viz.words(texts[:4], merge(groups, None)).axes[0].patches) == 4


def test_a_long_text_is_wrapped() -> None:
    texts = ["electroencephalography"] * 7
    (axes,) = viz.words(texts, merge(GROUPS, None)).axes
    words = [text for text in axes.texts if text.get_text() == texts[0]]
    assert [int(word.get_position()[1]) for word in words] == [0, 0, 0, 1, 1, 1, 2]


def test_frames_of_a_group_share_a_colour_in_every_strip() -> None:
    groups = [0, 1, 2, 1, 2, 3, 1]
    found = [merge(groups, Grid((7,), 0)), merge(GROUPS, Grid((6,), 1))]
    heard, *strips = viz.frames(noise(5, 40), found).axes
    assert pixels(heard).shape == (5, 40) and len(strips) == 2
    first, second = ([tuple(c) for c in pixels(strip)[0].tolist()] for strip in strips)
    assert [first.index(colour) for colour in first] == [0, 1, 2, 1, 2, 0, 1]
    assert [second.index(colour) for colour in second] == [0, 0, 2, 3, 2, 3]
    lines = viz.frames(noise(2, 1, 99), found[0]).axes[0].lines
    assert len(lines) == 1 and len(lines[0].get_xdata()) == 99


IMAGE = noise(3, 4, 6)
WRONG: dict[str, tuple[Callable[[], Figure], str]] = {
    "nothing merged": (lambda: viz.flow([]), "there is none to draw"),
    "no merges": (
        lambda: viz.flow([IMAGE]),
        "expected what pitome_fx.tokens returns, got a Tensor",
    ),  # type: ignore[list-item]
    "item": (lambda: viz.groups(IMAGE, merge(), item=1), "item=1 is not allowed: .* from 0 to 0"),
    "item of words": (lambda: viz.words(["a"], merge(), item=-1), "item=-1 is not allowed"),
    "image": (lambda: viz.groups(noise(2, 2, 3, 4, 5), merge()), r"got \(2, 2, 3, 4, 5\)"),
    "fill": (lambda: viz.groups(IMAGE, merge(), fill="grey"), "'mean' or 'colours'"),  # type: ignore[arg-type]
    "no grid": (
        lambda: viz.groups(IMAGE, merge(grid=None)),
        r"how the 7 tokens of blocks.0 lie on an image .*: give grid=\(rows, columns\)",
    ),
    "a sequence": (
        lambda: viz.groups(IMAGE, merge(grid=Grid((7,), 0))),
        r"lie along 1 directions \(7\).*pitome_fx.viz.words",
    ),
    "grid of one": (lambda: viz.groups(IMAGE, merge(), grid=(7,)), "expected .rows, columns., two"),  # type: ignore[arg-type]
    "grid too large": (
        lambda: viz.groups(IMAGE, merge(), grid=(3, 3)),
        "9 patches, and blocks.0 .*7",
    ),
    "no scores": (lambda: viz.scores(IMAGE, merge()), "the algorithm ranks no tokens"),
    "too many words": (lambda: viz.words(["a"] * 8, merge()), "8 were given, and blocks.0 has 7"),
    "one string": (lambda: viz.words("a text", merge()), "expected a list of strings"),
    "patches in time": (lambda: viz.frames(IMAGE, merge()), r"\(2 × 3\), not along time alone"),
    "spectrogram": (lambda: viz.frames(noise(1, 2, 3, 4), merge(grid=None)), r"got \(1, 2, 3, 4\)"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_drawn_is_said(what: str) -> None:
    draw, words = WRONG[what]
    with pytest.raises(OptionsError, match=words):
        draw()


def test_a_grid_that_is_given_wins_and_special_tokens_stand_before_it() -> None:
    panel = viz.groups(noise(3, 4, 6), merge(grid=None), grid=(3, 2)).axes[1]
    (lines,) = panel.collections
    # 1 1 | 2 3 | 2 4
    assert len(lines.get_segments()) == 2 + 2 + 1
    behind = viz.groups(noise(3, 4, 6), merge([1, 1, 1, 1, 1, 1, 0], None, back=1), grid=(2, 3))
    assert len(behind.axes[1].collections[0].get_segments()) == 0


def test_figures_are_transparent_and_show_themselves() -> None:
    figure = viz.flow(merge())
    assert isinstance(figure, Figure) and figure.get_facecolor()[3] == 0
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


HEADLESS = """
import sys
import torch
from pitome_fx import viz
from tests.test_viz import merge

viz.groups(torch.rand(3, 4, 6), merge())._repr_png_()
assert "matplotlib.pyplot" not in sys.modules
"""


def test_drawing_leaves_pyplot_alone() -> None:
    subprocess.run([sys.executable, "-c", HEADLESS], check=True)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "pitome_fx.viz.picture", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'pitome-fx\[viz\]'"):
        viz.flow(merge())

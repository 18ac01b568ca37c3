"""Whatever README.md shows to be typed runs: its Python, its commands, the targets it names."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pitome_fx
from examples.digits_vit import VisionTransformer, ViTConfig
from pitome_fx.cli import commands
from tests.support.readme import Shown, shown_in

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
README = shown_in((ROOT / "README.md").read_text())

SIZE = ViTConfig(image=32, patch=4, channels=3, width=48, depth=2, heads=3, classes=5)

TIMM = "timm:vit_tiny_patch16_224 --set depth=2 --set img_size=96"
IN_COMMANDS = {
    "MODEL": "my_models:classifier",
    "timm:vit_small_patch16_224": TIMM,
    "timm:vit_base_patch16_224": TIMM,
    "4x3x224x224": "2x3x96x96",
}
"""What stands in README.md, and what stands for it here: smaller models."""

MY_MODELS = f"""
import torch
from examples.digits_vit import VisionTransformer, ViTConfig

def classifier():
    return VisionTransformer({SIZE}), torch.randn(2, 3, 32, 32)
"""
"""The module that README.md takes for one of the user's."""


class Tokens(nn.Module):
    """A model that returns its tokens: (B, 3, 32, 32) → (B, 65, 48)."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = VisionTransformer(SIZE)

    def forward(self, images: Tensor) -> Tensor:
        return self.vit.tokens(images)


def names() -> dict[str, Any]:
    """What README.md takes for given in Python."""
    model, images = Tokens().eval(), torch.randn(2, 3, 32, 32)
    return {
        "torch": torch,
        "pitome_fx": pitome_fx,
        "Path": Path,
        "model": model,
        "images": images,
        "args": (images,),
        "data": [images, images.flip(0)],
        "compiled": torch.compile(model, backend="pitome"),
        "program": pitome_fx.transform(torch.export.export(model, (images,)), ratio=0.9),
    }


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder to write to, with the files that README.md takes for given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PITOME_FX_CACHE", str(tmp_path / "cache"))
    Path("my_models.py").write_text(MY_MODELS)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    torch.save(images, "images.pt")
    torch.save([(images, labels)], "labelled.pt")
    Path("options.json").write_text('{"ratio": 0.9}')
    yield
    sys.modules.pop("my_models", None)


# The models here are too small for merging to pay in time.
@pytest.mark.filterwarnings("ignore:.*on this device:pitome_fx.PitomeWarning")
@pytest.mark.parametrize("shown", [one for one in README if one.kind == "python"], ids=str)
def test_python_runs(shown: Shown) -> None:
    given = names()
    found = dict(given)
    exec(compile(shown.text, f"README.md, line {shown.line}", "exec"), found)
    # Compiling is done when it is called.
    if found["model"] is not given["model"]:
        with torch.no_grad():
            assert found["model"](given["images"]).shape == given["model"](given["images"]).shape


@pytest.mark.parametrize("shown", [one for one in README if one.kind == "command"], ids=str)
def test_command_runs(shown: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown.text
    for there, here in IN_COMMANDS.items():
        text = text.replace(there, here)
    words = shlex.split(text, comments=True)
    match words:
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["python", "-m", "pitome_fx", *arguments]:
            assert commands.main(arguments) == 0, capsys.readouterr().err
            assert capsys.readouterr().out
        case ["python", script, *_]:
            assert (ROOT / script).is_file()
        case ["pip", "install", *what]:
            extras = re.findall(r"\[([\w,]+)\]", " ".join(what))
            known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            assert {extra for group in extras for extra in group.split(",")} <= set(
                known["optional-dependencies"]
            )
        case _:
            raise AssertionError(f"nothing here runs {shown.text!r}: add it, or mark it not run")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("```python\nx = 1\n```\n", [("python", "x = 1\n")]),
        ("```\nmake demo    # all\n 1 of 2\n```\n", [("command", "make demo    # all")]),
        ("```sh\n$ make demo\n```\n", [("command", "make demo")]),
        ("```text\n 1 of 2\n```\n", []),
        ("```python\n# not run: needs a GPU\nx = 1\n```\n", []),
        ("Say `python -m pitome_fx explain x`.", [("command", "python -m pitome_fx explain x")]),
        ("`pitome_fx.explain(m)` and `pitome_fx`", [("python", "pitome_fx.explain(m)")]),
    ],
)
def test_what_is_shown_is_found(text: str, wanted: list[tuple[str, str]]) -> None:
    assert [(one.kind, one.text) for one in shown_in(text)] == wanted


@pytest.mark.parametrize(
    "text", ["```bash\nmake\n```\n", "```text\nmake demo\n```\n", "```\nimport torch\n```\n"]
)
def test_nothing_shown_is_hidden(text: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        shown_in(text)

"""The pages build without a warning, and say of every public name what its docstring says."""

import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

import pitome_fx
from pitome_fx import Options, deploy, spectral, testing, viz
from pitome_fx.cli.commands import COMMANDS, main
from tests.support.html import Element, parsed

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]

PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module, names in (
        (pitome_fx, pitome_fx.__all__),
        (viz, viz.__all__),
        (deploy, deploy.__all__),
        (testing, testing.__all__),
        (spectral, ("distance", "of_merges")),
    )
    for name in names
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``make docs`` fills; a warning fails it."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(folder)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return folder


def article(page: Path) -> Element:
    """What a page says, without what is around it."""
    found = re.search(r"<article.*</article>", page.read_text(), re.DOTALL)
    assert found is not None
    return parsed(found[0])


def entries(page: Element) -> Iterator[tuple[str, str]]:
    """Each name that has an entry, and the text below it."""
    for described in page.all("dl", "py"):
        parts = [part for part in described.inside if isinstance(part, Element)]
        text = "".join(part.text for part in parts if part.name == "dd")
        for part in parts:
            if part.attributes.get("id"):
                yield str(part.attributes["id"]), text


def plain(text: str) -> str:
    """Letters alone: markup, which is not shown, and where lines break do not count."""
    return re.sub(r"[`\s]+", "", text)


def test_every_public_name_has_an_entry_with_its_docstring(pages: Path) -> None:
    found = {name: plain(text) for name, text in entries(article(pages / "reference.html"))}
    for name, value in PUBLIC.items():
        if inspect.ismodule(value):
            assert any(own.startswith(f"{name}.") for own in found), f"nothing of {name}"
        elif inspect.isfunction(value) or inspect.isclass(value):
            first = plain((inspect.getdoc(value) or "").partition("\n\n")[0])
            assert first and first in found[name], f"{name} is not described"
        else:
            assert len(found[name]) > 20, f"{name} is not described"


def test_every_option_is_described(pages: Path) -> None:
    described = dict(entries(article(pages / "reference.html")))["pitome_fx.Options"]
    for field in dataclasses.fields(Options):
        assert re.search(rf"^{field.name} – \S+", described, re.MULTILINE), field.name


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_is_shown(
    pages: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    printed = capsys.readouterr().out
    own = article(pages / "command-line.html").by_id(command).text
    words, end, _ = printed.partition("how a model is named")
    assert end and plain(words) in plain(own)
    assert "object at 0x" not in own


def test_no_link_leads_nowhere(pages: Path) -> None:
    files = list(pages.glob("*.html"))
    assert {"index.html", "study.html", "contributing.html"} <= {file.name for file in files}
    for file in files:
        for link in re.findall(r'(?:href|src)="([^"]*)"', file.read_text()):
            path, _, place = unescape(link).partition("#")
            if re.match(r"[a-z]+:|//", path):
                continue
            target = pages / path.partition("?")[0] if path else file
            assert target.exists(), f"{file.name} leads to {link}"
            if place and target.suffix == ".html":
                assert f'id="{place}"' in target.read_text(), f"{file.name} leads to {link}"


def test_the_readme_is_the_first_page(pages: Path) -> None:
    first = (pages / "index.html").read_text()
    for example in re.findall(r"examples/(\w+\.(?:py|ipynb))", (ROOT / "README.md").read_text()):
        assert re.search(rf'href="_downloads/\w+/{example}"', first), example

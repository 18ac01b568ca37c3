"""Links of the files in the repository's root, as seen from the pages that include them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
}
"""Files in the root, and the page that includes each."""

RELATIVE = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)\s#]+")
"""Where a Markdown link or picture leads, unless that is an address or a place on the page."""


def from_docs(text: str) -> str:
    """Markdown of the root, with links that hold in the folder of the pages."""

    def moved(found: re.Match[str]) -> str:
        target = found[0]
        return PAGES.get(target) or Path(os.path.relpath(ROOT / target, ROOT / "docs")).as_posix()

    return RELATIVE.sub(moved, text)


def _on_include(app: Sphinx, path: Path, page: str, content: list[str]) -> None:
    if (app.srcdir / path).resolve().parent == ROOT:
        content[0] = from_docs(content[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls."""
    app.connect("include-read", _on_include)
    return {"parallel_read_safe": True}

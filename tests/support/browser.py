"""A page in a real browser: what it says on its console, and what it measures."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
)

MEASURED = """<!DOCTYPE html><meta charset="utf-8"><body>
<iframe id="shown" style="border:0;width:{width}px;height:844px" srcdoc="{page}"></iframe>
<script>
window.onload = () => {{
  const page = document.getElementById("shown").contentDocument;
  const all = what => [...page.querySelectorAll(what)];
  if ({unfold}) all("details").forEach(one => one.open = true);
  const narrow = one => one.scrollWidth > one.clientWidth + 1;
  const colour = one => getComputedStyle(one).color;
  const result = {{
    title: page.title,
    text: page.body.innerText,
    width: page.documentElement.scrollWidth,
    clipped: all("main, details, table").filter(narrow).length,
    paper: getComputedStyle(page.body).backgroundColor,
    images: [...page.images].map(one => one.naturalWidth),
    bars: all("svg rect").map(one => one.getBoundingClientRect().width),
    ink: all("pre").map(colour),
    merges: all("pre b.merge").map(colour),
  }};
  const line = document.createElement("pre");
  line.id = "result";
  line.textContent = JSON.stringify(result);
  document.body.append(line);
}};
</script>"""


@dataclass(frozen=True)
class Seen:
    """What a browser made of a page.

    Attributes:
        console: what was printed to its console, errors among it.
        measured: the ``result`` of the script above.
    """

    console: list[str]
    measured: dict[str, Any]


def shown(page: str, folder: Path, width: int, dark: bool = False, unfold: bool = False) -> Seen:
    """Show a page in a frame of that many pixels.

    Args:
        folder: for the browser to work in; made where there is none.
        unfold: everything that can be unfolded.
    """
    assert CHROMIUM is not None
    # A window is never as narrow as a phone, a frame is; and a page without scripts has nothing
    # to measure itself with.
    frame = MEASURED.format(width=width, page=html.escape(page), unfold=str(unfold).lower())
    folder.mkdir(exist_ok=True)
    (folder / "frame.html").write_text(frame, encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    own = (f"--user-data-dir={folder / 'profile'}", scheme, "--dump-dom")
    run = subprocess.run(
        [CHROMIUM, *FLAGS, *own, (folder / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="result">(.*?)</pre>', run.stdout, re.DOTALL)
    assert found is not None, run.stderr
    console = [line for line in run.stderr.splitlines() if ":CONSOLE" in line]
    return Seen(console, json.loads(html.unescape(found[1])))

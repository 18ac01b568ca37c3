"""explain --html."""

import json
from pathlib import Path

from tests.cli.calls import SMALL, Cli
from tests.support.html import parsed


def test_the_report_is_printed_and_written(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    status, out, _ = cli("explain", *SMALL, "--html", str(path))
    assert status == 0 and out.startswith("Token merging") and out.endswith(f"written  {path}\n")
    (title,) = parsed(path.read_text(encoding="utf-8")).all("h1")
    assert title.text == "Transformer: token merging"


def test_json_is_printed_alone(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    status, out, _ = cli("explain", *SMALL, "--html", str(path), "--json")
    assert status == 0 and json.loads(out)["blocks"] and path.exists()


def test_its_options_are_read_again(cli: Cli, tmp_path: Path) -> None:
    """The command that the page names yields the same report."""
    first, second, kept = (tmp_path / name for name in ("a.html", "b.html", "options.json"))
    cli("explain", *SMALL, "--ratio", "0.8", "--metric", "hidden", "--html", str(first))
    kept.write_text(parsed(first.read_text(encoding="utf-8")).by_id("options").text)
    cli("explain", *SMALL, "--options", str(kept), "--html", str(second))
    tables = [
        [one.rows() for one in parsed(path.read_text(encoding="utf-8")).all("table")]
        for path in (first, second)
    ]
    assert tables[0] == tables[1]

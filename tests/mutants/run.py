"""Breaks a copy of the library in every way of the table; ``python -m tests.mutants.run [NAME…]``.

A mutant is killed if some test fails. Each is tried on the tests that should notice it first, then
on the laws over drawn programs, then on the whole suite.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import track

from tests.mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
ASIDE = shutil.ignore_patterns(".venv", ".git", ".*_cache", ".cache", "__pycache__", "build")


def main(names: list[str]) -> int:
    """Try all mutants, or those whose name contains one of ``names``."""
    chosen = [m for m in MUTANTS if not names or any(name in m.name for name in names)]
    console = Console(stderr=True)
    healthy = first_failure(ROOT, "tests/test_ops.py")
    assert not healthy, f"the library fails without any mutant: {healthy}"
    alive = []
    for mutant in track(chosen, "mutants", console=console):
        killer = killed_by(mutant)
        console.print(f"{mutant.name}: {killer or 'SURVIVES'}", markup=False)
        alive += [] if killer else [mutant.name]
    console.print(f"{len(chosen) - len(alive)} of {len(chosen)} mutants killed")
    return 1 if alive else 0


def killed_by(mutant: Mutant) -> str:
    """The first test that fails on a copy with the mutant, '' if none does."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repo"
        shutil.copytree(ROOT, copy, symlinks=True, ignore=ASIDE)
        file = copy / mutant.file
        text = file.read_text()
        assert text.count(mutant.old) == 1, f"{mutant.name}: its text is not in {mutant.file} once"
        file.write_text(text.replace(mutant.old, mutant.new))
        for tests in (mutant.tests, "tests/properties", "tests"):
            failed = first_failure(copy, tests)
            if failed:
                return failed
    return ""


def first_failure(repo: Path, tests: str) -> str:
    """The name of the first failing test in a tree, '' if all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--no-header", tests]
    # Would fail on any mutant: it looks for the text that the mutant replaced.
    command.append("--ignore=tests/test_mutants.py")
    # The copy must be imported and not the installed tree.
    environment = {
        **os.environ,
        "PYTHONPATH": str(repo),
        "OMP_NUM_THREADS": "1",
        "FUZZ_PROFILE": "mutants",
    }
    done = subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True)
    if done.returncode == pytest.ExitCode.OK:
        return ""
    if done.returncode not in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED):
        raise RuntimeError(f"{tests} cannot be run: {done.stdout[-500:]}{done.stderr[-500:]}")
    found = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return found[0].split(" - ")[0] if found else done.stdout[-500:] + done.stderr[-500:]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

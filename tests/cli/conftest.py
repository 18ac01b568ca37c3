"""A command line run in this process, and a module of the user's."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitome_fx.algorithms import ALGORITHMS
from pitome_fx.cli import commands
from tests.cli.calls import OWN_MODELS, Cli


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command line in this process: its status and what it printed."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = commands.main(arguments)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module ``own_models`` of the user's, which may register an algorithm."""
    (tmp_path / "own_models.py").write_text(OWN_MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_models", None)
    ALGORITHMS.pop("mine", None)

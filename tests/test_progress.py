"""What is going on is shown on a terminal, and nowhere else."""

import io
import sys
import time

import pytest

from pitome_fx.progress import saying


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch, wanted: bool = True) -> str:
    """What is written while one thing goes on inside another."""
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with saying(wanted) as say:
        say("timing", 3, 20)
        with saying() as say_inside:
            say_inside("measuring this device", 1, 8)
            time.sleep(0.3)  # Two turns of what draws it.
    return screen.getvalue()


def test_one_thing_inside_another_has_a_line_of_the_same_display(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = shown(Terminal(), monkeypatch)
    for words in ("timing", "3/20", "measuring this device", "1/8"):
        assert words in text


def test_nothing_is_shown_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(io.StringIO(), monkeypatch) == ""
    assert shown(Terminal(), monkeypatch, wanted=False) == ""

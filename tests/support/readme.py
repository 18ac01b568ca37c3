"""What a Markdown file shows to be typed: Python, and commands.

A block in python is Python. In one in sh, or in no language, each line that begins as a command is
one, and the others are what it prints. Code within a sentence counts where it is a call of the
library or a command of its command line. A block in text is not to be typed. A block whose first
line is ``# not run: …`` says why it cannot run, and is left alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
COMMAND = re.compile(r"(?:\$ )?((?:make|python3?|pip|pitome_fx) \S.*)")
CALL = re.compile(r"pitome_fx\.[\w.]+\(.*\)")
NOT_RUN = re.compile(r"# not run: \w+")

SHELL = ("", "sh")
LANGUAGES = ("python", *SHELL, "text")


@dataclass(frozen=True)
class Shown:
    """One thing to type: some Python, or a command; and the line of the file where it begins."""

    kind: Literal["python", "command"]
    text: str
    line: int

    def __str__(self) -> str:
        return f"{self.kind}-in-line-{self.line}"


def shown_in(text: str) -> list[Shown]:
    """All that a file shows, in order.

    Raises:
        ValueError: a block is in no language that is known here, or hides what is to be typed.
    """
    found = []
    for block in FENCED.finditer(text):
        found += _of_block(*block.groups(), line=_line(text, block.start(2)))
    prose = FENCED.sub(lambda block: "\n" * block[0].count("\n"), text)
    for code in INLINE.finditer(prose):
        line = _line(prose, code.start())
        command = COMMAND.fullmatch(code[1])
        if command and code[1].startswith("python -m pitome_fx"):
            found.append(Shown("command", command[1], line))
        elif CALL.fullmatch(code[1]):
            found.append(Shown("python", code[1], line))
    return sorted(found, key=lambda one: one.line)


def _of_block(language: str, inside: str, line: int) -> list[Shown]:
    if language not in LANGUAGES:
        raise ValueError(f"line {line}: a block of {language}; expected one of {LANGUAGES}")
    if NOT_RUN.match(inside):
        return []
    if language == "python":
        return [Shown("python", inside, line)]
    commands = [
        Shown("command", command[1], line + number)
        for number, written in enumerate(inside.splitlines())
        if (command := COMMAND.match(written))
    ]
    if language == "text" and commands:
        raise ValueError(f"line {commands[0].line}: a command, which a block of text may not hold")
    if not commands and re.search(r"^(?:import|from) |pitome_fx\.\w+\(", inside, re.MULTILINE):
        raise ValueError(f"line {line}: a block of Python that does not say so")
    return commands


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1

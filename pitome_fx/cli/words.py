"""How the words of a command line become options and settings."""

from __future__ import annotations

import argparse
import ast
import json
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pitome_fx.errors import OptionsError, UsageError
from pitome_fx.options import AMOUNTS, Options


def options_of(parsed: argparse.Namespace) -> dict[str, Any]:
    """The options given, as Options takes them.

    Raises:
        OptionsError: they are wrong.
    """
    types = typing.get_type_hints(Options)
    options = {
        name: _as_field(value, types[name]) for name, value in vars(parsed).items() if name in types
    }
    if parsed.options is not None:
        options = _over(_read(parsed.options), options)
    Options.parse(options)
    return options


def option_set(text: str) -> dict[str, Any]:
    """Options written NAME=VALUE,NAME=VALUE; a comma within brackets belongs to its value.

    Raises:
        OptionsError: they are wrong.
        UsageError: they are not written so.
    """
    types = typing.get_type_hints(Options)
    options = {}
    for item in re.split(r",(?![^\[({]*[\])}])", text):
        name, equals, value = item.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"{item!r}: expected NAME=VALUE")
        options[name] = _as_field(value, types[name]) if name in types else value
    Options.parse(options)
    return options


def _read(file: Path) -> dict[str, Any]:
    """The options that a file holds."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--options {file}: {error}") from error
    try:
        return json.loads(Options.from_json(text).to_json())
    except OptionsError as error:
        raise OptionsError(f"--options {file}: {error}") from error


def _over(kept: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What is given in place of what a file holds; one amount replaces another."""
    gone = set(AMOUNTS) if any(name in given for name in AMOUNTS) else set()
    if given.get("algorithm", kept.get("algorithm")) != kept.get("algorithm"):
        gone |= {"algorithm_options"}
    return {**{name: value for name, value in kept.items() if name not in gone}, **given}


def _as_field(value: Any, type_: Any) -> Any:
    """Text as a value; of a field that takes several, one alone is a list of one."""
    if type_ == Mapping[str, Any] and isinstance(value, str) and "=" in value:
        pairs = (item.partition("=") for item in value.split(","))
        return {name.strip(): _literal(text) for name, _, text in pairs}
    read = _literal(value) if isinstance(value, str) else value
    several = any(typing.get_origin(part) is tuple for part in typing.get_args(type_))
    return (read,) if several and not isinstance(read, tuple | list) else read


def _literal(text: str) -> Any:
    """A Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def settings_of(parsed: argparse.Namespace) -> dict[str, Any]:
    """What --set gave, read as Python literals where they are; raises UsageError."""
    settings = {}
    for item in parsed.set:
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--set {item!r}: expected NAME=VALUE")
        settings[name] = _literal(value)
    return settings

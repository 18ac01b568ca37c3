"""A page as a file."""

from __future__ import annotations

from pathlib import Path

from pitome_fx.errors import OptionsError
from pitome_fx.page.contents import Contents
from pitome_fx.page.layout import page


def check(path: Path | str) -> Path:
    """The path of a page, before any work is done.

    Raises:
        OptionsError: no file can be there.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise OptionsError(f"html={str(path)!r}: there is no folder {path.parent} to write to")
    if path.is_dir():
        raise OptionsError(f"html={str(path)!r} is a folder; name a file")
    return path


def write(path: Path, contents: Contents) -> None:
    """Write a page, in place of the file that is there.

    Raises:
        OptionsError: it cannot be written.
    """
    text = page(contents)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionsError(f"html={str(path)!r} cannot be written: {error.strerror}") from error

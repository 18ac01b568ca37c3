"""Pictures of merged tokens for a terminal, readable without colour."""

from __future__ import annotations

import string
from collections import Counter

import torch
from rich.text import Text
from torch import Tensor

SHADES = " ░▒▓█"
ALONE = "·"
LETTERS = string.ascii_uppercase + string.ascii_lowercase
COLOURS = ("red", "green", "yellow", "blue", "magenta", "cyan", "bright_red", "bright_green")


def shaded(image: Tensor, grid: int) -> Text:
    """An image (S, S) in [-1, 1] as grid × grid shades, each the mean of the patch there."""
    patches = image.reshape(grid, image.shape[0] // grid, grid, -1).mean((1, 3))
    levels = ((patches + 1) / 2 * len(SHADES)).long().clamp(0, len(SHADES) - 1)
    return Text("\n".join("".join(SHADES[level] * 2 for level in row) for row in levels.tolist()))


def letter_of_groups(groups: Tensor) -> dict[int, str]:
    """A letter for each group of patches (N,) with two members or more, A for the largest."""
    sizes = Counter(groups.tolist()).most_common()
    shared = [group for group, size in sizes if size > 1]
    # More groups than letters are still told from single tokens.
    return {group: LETTERS[i] if i < len(LETTERS) else "?" for i, group in enumerate(shared)}


def grouped(groups: Tensor, grid: int) -> Text:
    """The groups (N,) of N = grid² patches as a map: one letter per group, a dot for a lone one."""
    letters = letter_of_groups(groups)
    picture = Text()
    for row in groups.view(grid, grid).tolist():
        for group in row:
            letter = letters.get(group, ALONE)
            style = "bold" if letter == ALONE else COLOURS[ord(letter) % len(COLOURS)]
            picture.append(f"{letter} ", style=style)
        picture.append("\n")
    picture.rstrip()
    return picture


def caption(groups: Tensor) -> str:
    """How many tokens the patches (N,) became, and how many of them are still alone."""
    letters = letter_of_groups(groups)
    alone = len(set(groups.tolist())) - len(letters)
    return f"{alone + len(letters)} tokens,\n{alone} alone"


def group_sizes(groups: Tensor) -> Tensor:
    """For each patch the number of patches in its group: (B, N) -> (B, N)."""
    same = groups[:, :, None] == groups[:, None, :]
    return same.sum(-1)


def ink(images: Tensor, grid: int) -> Tensor:
    """Which patches have ink on them: images (B, 1, S, S) in [-1, 1] -> bool (B, grid²)."""
    patches = torch.nn.functional.adaptive_avg_pool2d(images, grid).flatten(1)
    return patches > -0.5

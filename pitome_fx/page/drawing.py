"""Pictures of what merges on the inputs of a model, where these are images or texts."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export import ExportedProgram

from pitome_fx import viz
from pitome_fx.errors import PitomeError, PitomeWarning
from pitome_fx.frontends.tokens import MergedTokens, tokens
from pitome_fx.options import Options
from pitome_fx.page.contents import Picture
from pitome_fx.report import Report

NO_MATPLOTLIB = "Pictures of the groups need matplotlib: pip install 'pitome-fx[viz]'."
DRAWN = 3
"""Of all merges as many are drawn: the first, the last, and others between them."""
COLUMNS = 2
"""Few enough for a phone."""


def drawn(
    model: Any,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Options,
    report: Report,
) -> tuple[list[Picture], str]:
    """The groups on the first image and what the algorithm ranked its tokens by, or of a text.

    Returns:
        The pictures, and if there are none though the inputs are images or texts, why.
    """
    if args is None and not kwargs and isinstance(model, ExportedProgram):
        args, kwargs = model.example_inputs or ((), {})
    images, text = _images(args, kwargs), _text(args, kwargs)
    if (images is None and text is None) or not report.merged:
        return [], ""
    if not isinstance(model, nn.Module | ExportedProgram):
        return [], "There are no pictures: only a module or an ExportedProgram is run for them."
    if importlib.util.find_spec("matplotlib") is None:
        return [], NO_MATPLOTLIB
    try:
        with warnings.catch_warnings():
            # The report has its own word on what the model makes of its tokens.
            warnings.simplefilter("error", PitomeWarning)
            merges = tokens(model, args, kwargs, **options.changed())
        if not merges:
            return [], ""
        some = _some(merges)
        if images is not None:
            return _of_images(images, some), ""
        return ([_of_text(text, some)] if text is not None else []), ""
    except (PitomeError, PitomeWarning) as error:
        return [], f"There are no pictures: {error}"


def _some(merges: Sequence[MergedTokens]) -> list[MergedTokens]:
    """Of all merges those that are drawn."""
    last = len(merges) - 1
    return [merges[i] for i in sorted({round(i * last / (DRAWN - 1)) for i in range(DRAWN)})]


def _of_images(images: Tensor, merges: Sequence[MergedTokens]) -> list[Picture]:
    found: list[Picture] = [
        ("Groups of tokens on the first image", _png(viz.groups(images, merges, columns=COLUMNS)))
    ]
    if all(merge.scores is not None for merge in merges):
        ranks = viz.scores(images, merges, columns=COLUMNS)
        found.append(("What tokens are ranked by", _png(ranks)))
    return found


def _of_text(words: Sequence[str], merges: Sequence[MergedTokens]) -> Picture:
    return "Groups of tokens of the first text, by their ids", _png(viz.words(words, merges))


def _images(args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> Tensor | None:
    """The only input (B, C, H, W) of one or three channels."""
    inputs = pytree.tree_leaves((tuple(args or ()), dict(kwargs or {})))
    found = [
        x
        for x in inputs
        if isinstance(x, Tensor) and x.dim() == 4 and x.shape[1] in (1, 3) and len(x)
    ]
    return found[0] if len(found) == 1 else None


def _text(args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> list[str] | None:
    """The ids (B, N) of the first text: the input of that name, or the only one of integers."""
    named = (kwargs or {}).get("input_ids")
    inputs = [named] if named is not None else pytree.tree_leaves((args or (), kwargs or {}))
    found = [x for x in inputs if isinstance(x, Tensor) and x.dim() == 2 and _is_of_ids(x)]
    return [str(number) for number in found[0][0].tolist()] if len(found) == 1 else None


def _is_of_ids(x: Tensor) -> bool:
    return x.dtype in (torch.int32, torch.int64) and len(x) > 0


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()

"""One line of the zoo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from tests.support.models import Case


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        family: the heading it stands under in docs/model-coverage.md.
        name: unique in the zoo.
        build: makes the model (small, random weights, eval mode) and a call of it.
        verdict: what the pass must say: "3 of 3" sites merge, or e.g. "0 of 4: windowed …", with
            the reasons of the others by their first words (see ``check.verdict``).
        batch_dim: dimension of the inputs that is the batch; None if the call has a fixed batch.
    """

    family: str
    name: str
    build: Callable[[], Case]
    verdict: str
    batch_dim: int | None = 0


def of_batch(case: Case, dim: int, size: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The case's inputs with another number of items, repeated from the first."""
    present = [
        x.shape[dim]
        for x in pytree.tree_leaves((case.args, dict(case.kwargs)))
        if isinstance(x, Tensor) and x.dim() > dim
    ]
    batch = present[0]

    def resized(x: Tensor) -> Tensor:
        if x.dim() <= dim or x.shape[dim] != batch:
            return x
        return x.index_select(dim, torch.arange(size) % batch)

    resize: Any = pytree.tree_map_only(Tensor, resized, (case.args, dict(case.kwargs)))
    return resize[0], resize[1]

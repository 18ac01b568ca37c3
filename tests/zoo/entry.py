"""One line of the zoo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from tests.support.models import Case

Call = tuple[tuple[Any, ...], dict[str, Any]]


def resized(case: Case, dim: int = 1, **extra: Any) -> Call:
    """The case's call with images half as large again, or with texts a quarter shorter.

    Args:
        dim: dimension of the first input that is the length, where it is no image.
        extra: further arguments of the model.
    """
    first = next(x for x in pytree.tree_leaves((case.args, case.kwargs)) if isinstance(x, Tensor))
    generator = torch.Generator().manual_seed(0)

    def enlarged(x: Tensor) -> Tensor:
        if x.shape[-2:] != first.shape[-2:]:
            return x
        shape = [*x.shape[:-2], *(size * 3 // 2 for size in x.shape[-2:])]
        return torch.randn(shape, generator=generator, dtype=x.dtype).to(x.device)

    def shortened(x: Tensor) -> Tensor:
        length = first.shape[dim]
        for d in range(x.dim()):
            if x.shape[d] == length and (d == dim or x.dim() == 2 or d < x.dim() - 1):
                x = x.narrow(d, 0, length * 3 // 4)
        return x.clone()

    change = enlarged if first.dim() >= 4 else shortened
    call: Any = pytree.tree_map_only(Tensor, change, (case.args, dict(case.kwargs)))
    return call[0], {**call[1], **extra}


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
        resize: the call at another image size or length; None if the model has a fixed one, which
            is checked too.
    """

    family: str
    name: str
    build: Callable[[], Case]
    verdict: str
    batch_dim: int | None = 0
    resize: Callable[[Case], Call] | None = resized


def fixed(entry: Entry) -> Entry:
    """The entry of a model that takes one image size or length alone."""
    return replace(entry, resize=None)


def of_batch(case: Case, dim: int, size: int) -> Call:
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
        return x.index_select(dim, torch.arange(size, device=x.device) % batch)

    resize: Any = pytree.tree_map_only(Tensor, resized, (case.args, dict(case.kwargs)))
    return resize[0], resize[1]

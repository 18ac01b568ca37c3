"""In-place ops on fresh temporaries and views of them: a write that a lift makes go to a copy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Write(nn.Module):
    """x → a changed copy of it; t is its token dimension."""

    def __init__(self, kind: str, width: int, t: int) -> None:
        super().__init__()
        self.kind, self.t = kind, t
        self.token = nn.Parameter(torch.empty(1, 1, width))

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        return KINDS[self.kind](self, x, seen)

    def cut(self, x: Tensor, start: int | None, stop: int | None = None) -> Tensor:
        """A view of some tokens."""
        return x[:, start:stop] if self.t == 1 else x[start:stop]


def _add(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    h = x + write.token
    h.add_(1)
    return h


def _power(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    """Its functional form goes by another overload."""
    h = x * 0.5
    h.pow_(2)
    return h


def _drop(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    """Its functional form calls what is written by another name."""
    h = x * 1.0
    return nn.functional.dropout(h, 0.1, training=False, inplace=True)


def _compare(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    """Its functional form yields another dtype."""
    h = x.clone()
    h.ge_(-1e9)
    return x - h.neg()


def _slice(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    h = x * 1.5
    write.cut(h, 1).mul_(2)
    return h


def _copy(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    h = x.clone()
    write.cut(h, 0, 1).copy_(write.token.expand_as(write.cut(h, 0, 1)))
    return h


def _item(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    h = x.clone()
    if write.t == 1:
        h[:, 0] = write.token[0]
    else:
        h[0] = write.token[0]
    return h


def _view(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    h = x.contiguous() + 1
    h.view(-1, x.shape[-1]).mul_(write.token[0])
    return h


def _transposed(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    h = x + 1
    h.transpose(1, 2).add_(0.5)
    return h


def _read_before(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    """A view taken before the write, read after it."""
    h = x + 1
    view = h.transpose(0, 1)
    h.mul_(write.token)
    return h + view.transpose(0, 1)


def _hide(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    """Padding set to zero."""
    h = x * 1.0
    if seen is not None and seen.shape[1] == x.shape[write.t]:
        hidden = ~seen if write.t == 1 else ~seen.t()
        h.masked_fill_(hidden.unsqueeze(-1), 0.0)
    return h


def _last(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    h = x.clone()
    write.cut(h, -1).zero_()
    return h


def _fill(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    h = x.clone()
    return h.index_fill_(write.t, torch.zeros(1, dtype=torch.long, device=h.device), 0.5)


def _channels(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    h = x * 2
    h[..., 0] += 1
    return h


def _into_empty(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    """A result written piece by piece into a new tensor."""
    h = torch.empty_like(x)
    write.cut(h, 0, 1).copy_(write.cut(x, 0, 1))
    write.cut(h, 1).copy_(write.cut(x, 1) * 2)
    return h


def _into_zeros(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    h = x.new_zeros(x.shape)
    h[..., 1:] = x[..., 1:]
    h += x
    return h


def _into_list(write: Write, x: Tensor, seen: Tensor | None) -> Tensor:
    """Both halves of a split written to."""
    h = x + 0.5
    a, b = h.chunk(2, -1) if x.shape[-1] > 1 else (h, h)
    a.sigmoid_()
    return h * b.mean(-1, keepdim=True)


KINDS: dict[str, Callable[[Write, Tensor, Tensor | None], Tensor]] = {
    "power": _power,
    "drop": _drop,
    "compare": _compare,
    "add": _add,
    "slice": _slice,
    "copy": _copy,
    "item": _item,
    "view": _view,
    "transposed": _transposed,
    "read-before": _read_before,
    "hide": _hide,
    "last": _last,
    "fill": _fill,
    "channels": _channels,
    "into-empty": _into_empty,
    "into-zeros": _into_zeros,
    "halves": _into_list,
}

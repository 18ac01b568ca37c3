"""Groups of tokens: those of a merged output, and what is computed with their (B, N) numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Groups:
    """Who was merged with whom in one output. B: items, N: tokens, N': groups.

    A group has one value in the output, which each of its members would have: pooled over tokens
    it counts as often as ``sizes`` says. Groups are in no particular order.

    Attributes:
        sizes: (B, N') tokens per group, floating point; they add up to N.
        assignment: (B, N) the group of each token.
        dim: the dimension of the output that holds the groups.
        batch: the dimensions of the output that hold the items, outermost first; none where the
            batch is a single item.
    """

    sizes: Tensor
    assignment: Tensor
    dim: int
    batch: tuple[int, ...]

    def __repr__(self) -> str:
        items, groups = self.sizes.shape
        tokens = self.assignment.shape[1]
        return f"Groups({groups} of {tokens} tokens, {items=}, dim={self.dim}, batch={self.batch})"

    def lift(self, x: Tensor) -> Tensor:
        """x with N tokens in place of N' groups: each token has the value of its group.

        Args:
            x: the output, or whatever was computed from it that has groups and items where it has.

        Raises:
            ValueError: x has other groups or items.
        """
        return self._chosen(x, self.assignment)

    def members(self, item: int = 0) -> tuple[Tensor, ...]:
        """The tokens of each group of one item, in order: N' tensors (M,) of positions."""
        order = self.assignment[item].argsort(stable=True)
        return order.split(self.assignment[item].bincount().tolist())

    def first_members(self) -> Tensor:
        """(B, N') the position of each group's first token."""
        return _first_of_each(self.assignment, self.sizes.shape[1])

    def in_order(self, x: Tensor) -> tuple[Tensor, Groups]:
        """x and its groups in the order of their first tokens, as a language model reads them.

        Args:
            x: as for ``lift``.

        Raises:
            ValueError: x has other groups or items.
        """
        order = self.first_members().argsort(1)
        ordered = replace(
            self,
            sizes=self.sizes.gather(1, order),
            assignment=order.argsort(1).gather(1, self.assignment),
        )
        return self._chosen(x, order), ordered

    def _chosen(self, x: Tensor, index: Tensor) -> Tensor:
        """x with the groups (B, M) that the index names."""
        self._check(x)
        lead = [*self.batch, self.dim]
        order = [*lead, *(d for d in range(x.dim()) if d not in lead)]
        rows = x.permute(order)
        whole = rows.shape
        rows = rows.reshape(*self.sizes.shape, whole[len(lead) :].numel())
        rows = rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[2]))
        rows = rows.reshape(*whole[: len(lead) - 1], index.shape[1], *whole[len(lead) :])
        return rows.permute([order.index(d) for d in range(x.dim())])

    def _check(self, x: Tensor) -> None:
        items, groups = self.sizes.shape
        fits = max(self.batch, default=0) < x.dim() > self.dim and x.shape[self.dim] == groups
        if not fits or torch.Size(x.shape[d] for d in self.batch).numel() != items:
            where = f"{items} in dimensions {[*self.batch]}" if self.batch else "one"
            raise ValueError(
                f"a tensor of shape {[*x.shape]} does not hold these groups: expected {groups} of "
                f"them in dimension {self.dim}, and as for items {where}"
            )


def _flattened(groups: Groups) -> tuple[list[Tensor], Any]:
    return [groups.sizes, groups.assignment], (groups.dim, groups.batch)


def _unflattened(tensors: Any, places: Any) -> Groups:
    return Groups(*tensors, *places)


pytree.register_pytree_node(
    Groups,
    _flattened,
    _unflattened,
    serialized_type_name="pitome_fx.groups.Groups",
    to_dumpable_context=lambda places: [places[0], list(places[1])],
    from_dumpable_context=lambda places: (places[0], tuple(places[1])),
)


def mean_over_groups(rows: Tensor, groups: Tensor) -> Tensor:
    """Every token gets the mean of its group's members: (B, N, F) → (B, N, F).

    The mean of equal values is exactly that value: beside the lowest float, of which masks are
    made, the rounding of a sum would decide the softmax.
    """
    same = groups.unsqueeze(1) == groups.unsqueeze(2)
    wide = torch.promote_types(rows.dtype, torch.float32)
    weight = same.to(wide) / same.sum(-1, keepdim=True)
    if bool(rows.isfinite().all()):
        first = same.to(torch.int8).argmax(-1).unsqueeze(-1).expand_as(rows)
        one = rows.to(wide).gather(1, first)
        return (one + weight @ (rows.to(wide) - one)).to(rows.dtype)
    terms = torch.where(same.unsqueeze(-1), rows.unsqueeze(1), 0)
    return terms.sum(2) / same.sum(-1, keepdim=True)


def first_members(groups: Tensor) -> Tensor:
    """(B, N') the first token of every group."""
    return _first_of_each(groups, count(groups))


def _first_of_each(assignment: Tensor, number: int) -> Tensor:
    batch, tokens = assignment.shape
    positions = torch.arange(tokens, device=assignment.device).expand(batch, -1)
    none = assignment.new_full((batch, number), tokens)
    return none.scatter_reduce(1, assignment, positions, "amin")


def sizes(groups: Tensor) -> Tensor:
    """(B, N') members of every group."""
    numbers = torch.arange(count(groups), device=groups.device).view(1, -1, 1)
    return (groups.unsqueeze(1) == numbers).sum(-1)


def count(groups: Tensor) -> int:
    """N', the number of groups."""
    return int(groups.max()) + 1

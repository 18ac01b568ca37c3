"""Runs a transformed module and records who merged with whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import GraphModule, Interpreter

from pitome_fx.testing.combined import Combined


class Assignments(list[Tensor]):
    """For every merge of a run the group (B, N) of each original token after it.

    Attributes:
        combined: how the values of the groups came about, by the number of the merge, where an
            algorithm weighs them itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.combined: dict[int, Combined] = {}

    def extend(self, others: Iterable[Tensor]) -> None:
        """By those of a part of the run."""
        if isinstance(others, Assignments):
            self.combined |= {len(self) + i: how for i, how in others.combined.items()}
        super().extend(others)


def run_recorded(module: GraphModule, *args: Any, **kwargs: Any) -> tuple[Any, Assignments]:
    """Run a transformed module and record its merges.

    Returns:
        The output, and the assignments.
    """
    recorder = _Recorder(module)
    flat = recorder.run(*pytree.tree_leaves((args, kwargs)), enable_io_processing=False)
    return module.graph.process_outputs(flat), recorder.assignments


class _Recorder(Interpreter):
    """Follows the size tensors through the graph: what merges them says who merged with whom."""

    def __init__(self, module: GraphModule) -> None:
        # Values are told apart by identity, so none may be freed while the graph runs.
        super().__init__(module, garbage_collect_values=False)
        self.assignments = Assignments()
        self._groups: dict[int, Tensor] = {}

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_function(target, args, kwargs)
        if target == torch.ops.pitome.match.default:
            step = torch.ops.pitome.assignment(*result)
            before = self._groups.get(id(args[1]))
            self.assignments.append(step if before is None else step.gather(1, before))
        elif target == torch.ops.pitome.weigh.default:
            number = len(self.assignments) - 1
            self.assignments.combined[number] = Combined(args[0], args[1], *result)
        elif target == torch.ops.pitome.merge_size.default:
            self._groups[id(result)] = self.assignments[-1]
        elif target == torch.ops.aten.slice.Tensor and id(args[0]) in self._groups:
            # Under a symbolic batch, x[:, a:b] slices dimension 0 too, from end to end.
            groups = self._groups[id(args[0])]
            whole = args[1] == 0 or len(args) == 2
            self._groups[id(result)] = groups if whole else _slice_groups(groups, *args[2:])
        elif target == torch.ops.aten.cat.default and any(id(x) in self._groups for x in args[0]):
            self._groups[id(result)] = self._join_groups(args[0])
        return result

    def _join_groups(self, sizes: Sequence[Tensor]) -> Tensor:
        offset = 0
        parts = []
        for size in sizes:
            alone = torch.arange(size.shape[1], device=size.device).expand(size.shape[0], -1)
            parts.append(self._groups.get(id(size), alone) + offset)
            offset += size.shape[1]
        return torch.cat(parts, 1)


def _slice_groups(groups: Tensor, start: int, stop: int) -> Tensor:
    """The tokens whose groups are start…stop − 1; what is cut off is protected, so it is whole."""
    inside = (groups[0] >= start) & (groups[0] < stop)
    return groups[:, inside] - start

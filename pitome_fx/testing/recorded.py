"""Runs a transformed module and records who merged with whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pitome_fx.frontends.watching import Watcher
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

    Args:
        module: as ``transform`` returns it, with the form ``"pitome"``.
        args, kwargs: of the call.

    Returns:
        The output, and for each merge the group (B, N) of every original token after it.
    """
    recorder = _Recorder(module)
    flat = recorder.call_with(args, kwargs)
    assignments = Assignments()
    assignments.extend(recorder.seen)
    assignments.combined = recorder.combined
    return module.graph.process_outputs(flat), assignments


class _Recorder(Watcher[Tensor]):
    """Notes the assignments, and the weights that an algorithm gives."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module, lambda decision: decision.after)
        self.combined: dict[int, Combined] = {}

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_function(target, args, kwargs)
        if target == torch.ops.pitome.weigh.default:
            self.combined[len(self.seen) - 1] = Combined(args[0], args[1], *result)
        return result

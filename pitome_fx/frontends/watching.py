"""Runs a transformed module and sees every match: what it compared, and who has merged so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import GraphModule, Interpreter

from pitome_fx.matching import Deciding

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Decision:
    """One match of a run.

    Attributes:
        deciding: what it compared: the N tokens of a stream that are left.
        before: (B, M) the group, in [0, N), of each of the M tokens that the stream began with.
        after: (B, M) the same in [0, N'), when these tokens have merged.
        step: (B, N) the group, in [0, N'), of each token that it compared.
        stream: number of the stream: tokens that are unmerged, and merge again, begin another.
    """

    deciding: Deciding
    before: Tensor
    after: Tensor
    step: Tensor
    stream: int


@dataclass(frozen=True)
class _State:
    """What a tensor of sizes stands for; it is held, so that its id stays its own."""

    size: Tensor
    groups: Tensor
    stream: int


class Watcher(Interpreter, Generic[Seen]):
    """Follows the sizes of groups through the graph: what merges them says who has merged.

    Args:
        module: its merges are ``torch.ops.pitome`` nodes.
        see: is told of each match as it is made.

    Attributes:
        seen: what it returned, in the order of the merges.
    """

    def __init__(self, module: GraphModule, see: Callable[[Decision], Seen]) -> None:
        super().__init__(module)
        self.seen: list[Seen] = []
        self._see = see
        self._states: dict[int, _State] = {}
        self._streams = 0
        self._last: Decision | None = None

    def call_with(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> list[Any]:
        """Run on the arguments of a call; returns the leaves of the output."""
        leaves = pytree.tree_leaves((tuple(args), dict(kwargs or {})))
        return self.run(*leaves, enable_io_processing=False)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_function(target, args, kwargs)
        if target == torch.ops.pitome.match.default:
            self._last = self._decision(Deciding(*args), result)
            self.seen.append(self._see(self._last))
        elif target == torch.ops.pitome.merge_size.default:
            assert self._last is not None
            self._know(result, self._last.after, self._last.stream)
        elif target == torch.ops.aten.slice.Tensor and id(args[0]) in self._states:
            state = self._states[id(args[0])]
            # Under a symbolic batch, x[:, a:b] slices dimension 0 too, from end to end.
            whole = len(args) == 2 or args[1] == 0
            groups = state.groups if whole else _sliced(state.groups, *args[2:])
            self._know(result, groups, state.stream)
        elif target == torch.ops.aten.cat.default and any(id(x) in self._states for x in args[0]):
            known = [self._states[id(x)].stream for x in args[0] if id(x) in self._states]
            self._know(result, self._joined(args[0]), min(known))
        return result

    def _decision(self, deciding: Deciding, match: Sequence[Tensor]) -> Decision:
        step = torch.ops.pitome.assignment(*match)
        state = self._states.get(id(deciding.size))
        if state is not None:
            after = step.gather(1, state.groups)
            return Decision(deciding, state.groups, after, step, state.stream)
        self._streams += 1
        alone = torch.arange(step.shape[1], device=step.device).expand_as(step)
        return Decision(deciding, alone, step, step, self._streams - 1)

    def _know(self, size: Tensor, groups: Tensor, stream: int) -> None:
        self._states[id(size)] = _State(size, groups, stream)

    def _joined(self, sizes: Sequence[Tensor]) -> Tensor:
        offset = 0
        parts = []
        for size in sizes:
            alone = torch.arange(size.shape[1], device=size.device).expand(size.shape[0], -1)
            state = self._states.get(id(size))
            parts.append((alone if state is None else state.groups) + offset)
            offset += size.shape[1]
        return torch.cat(parts, 1)


def _sliced(groups: Tensor, start: int, stop: int) -> Tensor:
    """The tokens whose groups are start…stop − 1; what is cut off is protected, so it is whole."""
    inside = (groups[0] >= start) & (groups[0] < stop)
    return groups[:, inside] - start

"""A function of tensors with any of them merged, along any dimension, beside the dense function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx

from pitome_fx.passes import rules  # noqa: F401  (registers every rule)
from pitome_fx.passes.capture.program import Program, capture
from pitome_fx.passes.detect.dataflow import Dataflow
from pitome_fx.passes.detect.masks import Masks
from pitome_fx.passes.detect.treat import treat
from pitome_fx.passes.detect.variation import Variation
from pitome_fx.passes.replay.interpreter import Replay
from pitome_fx.passes.tokens.dims import Atom, TokenTensor
from pitome_fx.passes.tokens.spaces import TokenSpace, merged_space


@dataclass(frozen=True)
class Place:
    """Which operand is merged, along which dimension, by the items of which other (None: all)."""

    operand: int
    dim: int
    batch: int | None


@dataclass(frozen=True)
class Tried:
    """What came of one place.

    Attributes:
        lifted: why tokens were unmerged before the end, "" if the rules acted on them.
        problem: how the result differs from the dense function's, "" if it does not.
        refused: the error of the dense function, which cannot take equal tokens.
    """

    place: Place
    lifted: str
    problem: str
    refused: str = ""


def captured(f: Callable[..., Any], tensors: Sequence[Tensor]) -> Program:
    """A function as an ATen graph on fake inputs."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = [mode.from_tensor(torch.empty_like(x)) for x in tensors]
    with mode:
        source = make_fx(f, pre_dispatch=True, _allow_non_fake_inputs=True)(*fakes)
    return capture(source, fakes, [None] * len(fakes), [False] * len(fakes))


def tried_anywhere(
    program: Program,
    f: Callable[..., Any],
    tensors: Sequence[Tensor],
    at: Sequence[Place],
    generator: torch.Generator,
) -> Iterator[Tried]:
    """The law at each place: lift(f'(merged)) = f(lift(merged))."""
    labelling = Replay(program.graph, frozenset())
    labelling.run(*program.inputs)
    for place in at:
        groups = Groups(tensors[place.operand], place.dim, place.batch, generator)
        dense = [groups.dense if i == place.operand else x for i, x in enumerate(tensors)]
        try:
            expected = seeded(f, dense)
        except Exception as error:
            yield Tried(place, "", "", refused=type(error).__name__)
            continue
        replay, result = replay_with(labelling, tensors, place.operand, groups)
        if replay.projections:
            # What is merged along is replaced by means; those of a constant are the constant.
            given = [_halves(x) if i != place.operand else x for i, x in enumerate(tensors)]
            _, result = replay_with(labelling, given, place.operand, groups)
            given[place.operand] = groups.dense
            expected = seeded(f, given)
        why = [event.why for event in replay.lifts if event.node.op != "output"]
        yield Tried(place, "; ".join(dict.fromkeys(why)), difference(result, expected))


def seeded(f: Callable[..., Any], tensors: Sequence[Tensor]) -> Any:
    """The function of copies of these tensors, drawing from one seed."""
    torch.manual_seed(0)
    return f(*(x.clone() for x in tensors))


def _halves(x: Tensor) -> Tensor:
    if x.is_floating_point() or x.is_complex():
        return torch.full_like(x, 0.5)
    return torch.ones_like(x) if x.dtype == torch.bool else x


def difference(result: Any, expected: Any) -> str:
    """How two outputs differ, "" if they do not."""
    pairs = zip(pytree.tree_leaves(result), pytree.tree_leaves(expected), strict=True)
    for a, b in pairs:
        if not isinstance(b, Tensor):
            continue
        try:
            tolerance = 1e-9 if b.dtype in (torch.float64, torch.complex128) else 1e-5
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
        except AssertionError as error:
            return str(error)
    return ""


def places(tensors: Sequence[Tensor]) -> Iterator[Place]:
    """Every operand along every dimension that has two tokens, by the items of each other one."""
    for which, x in enumerate(tensors):
        long = [d for d, size in enumerate(x.shape) if size > 1]
        for dim in long:
            yield from (Place(which, dim, batch) for batch in (None, *long) if batch != dim)


class Groups:
    """A tensor in groups along one dimension, every token of which has the value of the first.

    Attributes:
        dense: the tensor with every token replaced by its group's first one.
        merged: those first ones alone.
    """

    def __init__(self, x: Tensor, dim: int, batch: int | None, generator: torch.Generator) -> None:
        self.dim, self.batch = dim, batch
        count = x.shape[dim]
        items = 1 if batch is None else x.shape[batch]
        groups = int(torch.randint(1, count, (1,), generator=generator))
        rows = [draw_row(count, groups, generator) for _ in range(items)]
        kept, moved, target = (torch.stack(part) for part in zip(*rows, strict=True))
        self.step = (kept, moved, target)
        assign = torch.ops.pitome.assignment(kept, moved, target)
        # In the layout of x, by which some ops draw.
        self.dense = torch.empty_like(x).copy_(self._picked(x, kept.gather(1, assign)))
        self.merged = self._picked(x, kept)

    def _picked(self, x: Tensor, index: Tensor) -> Tensor:
        """Tokens (B, K) of x."""
        if self.batch is None:
            return x.index_select(self.dim, index[0])
        rows = x.movedim((self.batch, self.dim), (0, 1))
        own = index.reshape(*index.shape, *[1] * (rows.dim() - 2)).expand(-1, -1, *rows.shape[2:])
        return rows.gather(1, own).movedim((0, 1), (self.batch, self.dim)).contiguous()

    def tokens(self, value: TokenTensor) -> TokenTensor:
        """The labelled value in these groups."""
        axis = value.dims[self.dim][0].axis
        batch = () if self.batch is None else (value.dims[self.batch][0].axis,)
        size = torch.ones(self.step[0].shape[0], value.data.shape[self.dim], dtype=torch.float64)
        space: TokenSpace = merged_space(axis, batch, None, self.step, size, 0, 0, frozenset(), 0)
        dims = (*value.dims[: self.dim], (Atom(axis, space),), *value.dims[self.dim + 1 :])
        return TokenTensor(self.merged, dims, tainted=True)


def draw_row(count: int, groups: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One item's kept tokens, moved tokens, and the groups that these go to."""
    order = torch.randperm(count, generator=generator)
    kept, moved = order[:groups].sort().values, order[groups:].sort().values
    return kept, moved, torch.randint(0, groups, (count - groups,), generator=generator)


def labelled(labelling: Replay, after: Callable[[Replay, Node, Any], Any]) -> Replay:
    """A replay of what was labelled, of a program in which no attention was looked for."""
    graph = labelling.graph
    dataflow = Dataflow()
    masks = Masks({}, frozenset(), dataflow, Variation(labelling, dataflow))
    treatments = treat(graph.graph, [], masks, [])
    return Replay(graph, frozenset(), labelling.labels, after=after, treatments=treatments)


def replay_with(
    labelling: Replay, tensors: Sequence[Tensor], which: int, groups: Groups
) -> tuple[Replay, Any]:
    """Replay what was labelled in eager, with one input merged."""
    holder = labelling.graph.graph.find_nodes(op="placeholder")[which]

    def merge(replay: Replay, node: Node, value: Any) -> Any:
        return groups.tokens(value) if node is holder else value

    replay = labelled(labelling, merge)
    torch.manual_seed(0)
    return replay, replay.run(*tensors)

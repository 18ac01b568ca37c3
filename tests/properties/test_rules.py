"""Every token rule against the law, in eager: lift(rule(merged)) = op(lift(merged))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pitome_fx.groups import mean_over_groups
from pitome_fx.passes import rules  # noqa: F401  (registers every rule)
from pitome_fx.passes.capture.program import Program
from pitome_fx.passes.replay.interpreter import Replay
from pitome_fx.passes.tokens.dims import Atom, TokenTensor
from pitome_fx.passes.tokens.rule import registered
from pitome_fx.passes.tokens.spaces import merged_space
from tests.properties import share
from tests.properties.anywhere import captured, labelled
from tests.properties.op_cases import OP_CASES
from tests.properties.rule_cases import CASES, Case

aten = torch.ops.aten

ALL_CASES = CASES | OP_CASES


@dataclass(frozen=True)
class Merged:
    """Drawn tokens (B, N, C) in groups, the first and last of them alone."""

    batch: int
    tokens: int
    channels: int
    front: int
    back: int
    groups: int
    seed: int

    def shape(self, letters: str) -> tuple[int, ...]:
        """A shape given in letters and digits."""
        known = {"B": self.batch, "N": self.tokens, "C": self.channels, "D": self.channels // 2}
        return tuple(known.get(letter) or int(letter) for letter in letters)

    def assign(self) -> Tensor:
        """(B, N) the group of every token; none is empty."""
        generator = torch.Generator().manual_seed(self.seed)
        inner = self.tokens - self.front - self.back
        rows = []
        for _ in range(self.batch):
            more = torch.randint(0, self.groups, (inner - self.groups,), generator=generator)
            some = torch.cat([torch.arange(self.groups), more])
            some = some[torch.randperm(inner, generator=generator)] + self.front
            last = torch.arange(self.back) + self.front + self.groups
            rows.append(torch.cat([torch.arange(self.front), some, last]))
        return torch.stack(rows)


@st.composite
def merged(draw: st.DrawFn) -> Merged:
    """Shapes that every case can do with: an even number of tokens, channels for two or three."""
    tokens = 2 * draw(st.integers(6, 20))
    front, back = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    return Merged(
        batch=draw(st.integers(2, 4)),
        tokens=tokens,
        channels=draw(st.sampled_from([6, 12])),
        front=front,
        back=back,
        groups=draw(st.integers(1, tokens - front - back - 1)),
        seed=draw(st.integers(0, 999)),
    )


@pytest.mark.parametrize("name", ALL_CASES)
@share(0.3)
@given(merged())
def test_rule_keeps_the_law(name: str, drawn: Merged) -> None:
    case, groups = ALL_CASES[name], drawn.assign()
    torch.manual_seed(drawn.seed)
    x = torch.randn(drawn.shape("BNC"), dtype=torch.float64)
    operands = [torch.randn(drawn.shape(s), dtype=torch.float64) for s in case.operands]
    expected = case.f(
        mean_over_groups(x, groups),
        *(
            along(y, letters, groups) if i in case.projected else y
            for i, (y, letters) in enumerate(zip(operands, case.operands, strict=True))
        ),
    )
    replay, result = replay_merged(case, x, operands, drawn)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    assert result.dtype == expected.dtype
    lifts = [event for event in replay.lifts if event.node.op != "output"]
    assert bool(lifts) is case.lifts, [event.why for event in lifts]
    assert any(event.node.op == "output" for event in replay.lifts) is case.carried
    assert len({event.operand for event in replay.projections}) == len(case.projected)


def along(y: Tensor, letters: str, groups: Tensor) -> Tensor:
    """An operand (B or 1 or nothing, N, …) whose token axes are replaced by means over groups."""
    if len(letters) == 2:
        y = y.unsqueeze(0)
    y = mean_over_groups(y.expand(len(groups), -1, -1), groups)
    return mean_over_groups(y.mT, groups).mT if letters.endswith("NN") else y


def replay_merged(
    case: Case, x: Tensor, operands: list[Tensor], drawn: Merged
) -> tuple[Replay, Any]:
    """Replay a case in eager with its first input merged."""
    program = traced(case, drawn)
    labelling = Replay(program.graph, frozenset())
    labelling.run(*program.inputs)
    first = program.graph.graph.find_nodes(op="placeholder")[0]

    def merge_first(replay: Replay, node: torch.fx.Node, value: Any) -> Any:
        return merged_input(value, drawn) if node is first else value

    replay = labelled(labelling, merge_first)
    return replay, replay.run(x, *operands)


def acted(replay: Replay) -> set[Any]:
    """The ops whose rules acted on merged operands."""
    lifted = {event.node for event in replay.lifts}
    return {
        node.target
        for node in replay.graph.graph.nodes
        if node not in lifted and any(is_merged_value(replay.env[n]) for n in node.all_input_nodes)
    }


def is_merged_value(value: Any) -> bool:
    return any(isinstance(x, TokenTensor) and x.merged for x in pytree.tree_leaves(value))


def merged_input(x: TokenTensor, drawn: Merged) -> TokenTensor:
    """x in its drawn groups."""
    groups = drawn.assign()
    numbers = torch.arange(drawn.front + drawn.groups + drawn.back)
    kept = torch.stack([(row[:, None] == numbers).int().argmax(0) for row in groups])
    rest = [[n for n in range(drawn.tokens) if n not in row] for row in kept.tolist()]
    moved = torch.tensor(rest)
    step = (kept, moved, groups.gather(1, moved))
    size = torch.ones(groups.shape, dtype=x.data.dtype)
    batch, axis = x.dims[0][0].axis, x.dims[1][0].axis
    space = merged_space(axis, (batch,), None, step, size, drawn.front, drawn.back, frozenset(), 0)
    data = torch.ops.pitome.merge(x.data, size, *step)
    return TokenTensor(data, (x.dims[0], (Atom(axis, space),), x.dims[2]), tainted=True)


def test_every_op_has_a_case() -> None:
    """An op with a rule meets merged tokens in some case, and its rule acts on them."""
    plain = Merged(batch=2, tokens=12, channels=6, front=1, back=0, groups=7, seed=0)
    met = set()
    for case in ALL_CASES.values():
        operands = [torch.ones(plain.shape(s), dtype=torch.float64) for s in case.operands]
        replay, _ = replay_merged(case, torch.ones(plain.shape("BNC")).double(), operands, plain)
        met |= acted(replay)
    missing = set(registered()) - met
    # A size is a node only where it is symbolic (test_dynamic_shapes), and what picks by value
    # is a rule for dense operands beside merged ones; where each token draws by a probability of
    # its own, the rule has nothing but the reason to lift.
    missing -= {aten.sym_size.int, aten.gather.default, aten.take_along_dim.default}
    missing -= {aten.bernoulli.default, aten.bernoulli.Tensor}
    assert not missing, f"ops without a case: {sorted(map(str, missing))}"


def traced(case: Case, drawn: Merged) -> Program:
    """A case as an ATen graph on fake inputs."""
    shapes = (drawn.shape(letters) for letters in ("BNC", *case.operands))
    return captured(case.f, [torch.zeros(shape, dtype=torch.float64) for shape in shapes])

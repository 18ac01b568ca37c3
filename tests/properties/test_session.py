"""A session of a user: compile, change options, batch and mode, train, reset; nothing is stale."""

from __future__ import annotations

from typing import Any

import torch
import torch._dynamo
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch._dynamo.utils import counters

from tests.properties import PROFILE
from tests.properties.build import build
from tests.properties.description import Attention, Mlp, Options, Program, Residual
from tests.properties.trial import LIMIT, Flat, rewritten, tried, worst_error
from tests.support.device import DEVICE

PROGRAM = Program(
    (Residual(Attention()), Residual(Mlp()), Residual(Attention("matmul")), Residual(Mlp())),
    tokens=16,
    heads=2,
    prefix=1,
    readout="first",
)

OPTIONS: list[Options] = [
    {"ratio": 0.6, "lowering": "eager"},
    {"ratio": 0.75, "lowering": "eager"},
    {"ratio": 0.6, "algorithm": "tome", "lowering": "eager"},
    {"r": 3, "proportional": False, "lowering": "eager"},
    {"ratio": 1.0, "lowering": "eager"},
]


class Session(RuleBasedStateMachine):
    """Every call gives the answer for the present weights, options and input."""

    @initialize()
    def start(self) -> None:
        self.module, _ = build(PROGRAM)
        self.seen: set[tuple[Any, ...]] = set()
        self.batch, self.calls = 2, 0
        self.reset()
        self.compile(OPTIONS[0])

    @rule(options=st.sampled_from(OPTIONS))
    def compile(self, options: Options) -> None:
        # An equal dict, not the same one.
        self.options = dict(options)
        self.compiled = torch.compile(self.module, backend="pitome", options=dict(options))

    @rule(batch=st.integers(1, 4))
    def resize(self, batch: int) -> None:
        self.batch = batch

    @rule()
    def evaluate(self) -> None:
        self.module.eval()

    @rule()
    def reset(self) -> None:
        torch._dynamo.reset()
        self.seen.clear()
        self.first = graphs_compiled()

    @rule()
    def train(self) -> None:
        """One step of gradient descent through the compiled model."""
        self.module.train()
        before = [p.detach().clone() for p in self.module.parameters()]
        self.module.zero_grad()
        self.call("train").square().sum().backward()
        with torch.no_grad():
            for p in self.module.parameters():
                assert p.grad is not None
                p -= 1e-2 * p.grad / p.grad.norm().clamp(min=1.0)
        after = list(self.module.parameters())
        assert any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))

    @rule()
    def infer(self) -> None:
        with torch.no_grad():
            self.call("no_grad")

    def call(self, how: str) -> torch.Tensor:
        """Call the compiled model; it must agree with the simulation, and not compile twice."""
        self.calls += 1
        generator = torch.Generator().manual_seed(self.calls)
        shape = (self.batch, PROGRAM.tokens, PROGRAM.width)
        x = torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE)
        targets = torch.zeros(self.batch, PROGRAM.total, dtype=torch.int64, device=DEVICE)
        before = graphs_compiled()
        found: torch.Tensor = self.compiled(x, targets)
        key = (repr(self.options), how, self.module.training, self.batch)
        if key in self.seen:
            assert graphs_compiled() == before, f"compiled again: {key}"
        self.seen.add(key)
        flat = Flat(self.module, (x, targets))
        wanted = tried(rewritten(flat, self.options), flat).simulated[:1]
        assert worst_error((found.detach(),), wanted) <= LIMIT
        return found

    @invariant()
    def compiles_are_bounded(self) -> None:
        """At most three per options and mode: batch 1, the first other batch, any batch."""
        situations = {key[:3] for key in self.seen}
        assert graphs_compiled() - self.first <= 3 * len(situations)


def graphs_compiled() -> int:
    """Graphs that Dynamo has handed to a backend in this process."""
    return int(counters["stats"]["unique_graphs"])


TestSession = Session.TestCase
TestSession.settings = settings(
    PROFILE, max_examples=max(3, PROFILE.max_examples // 5), stateful_step_count=12
)

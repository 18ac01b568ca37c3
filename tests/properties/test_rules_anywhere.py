"""Every token rule with any operand merged, along any of its dimensions.

A model may hand an op tokens where nobody thought of them: as a table to look up in, as the slopes
of an activation, with the tokens where the channels are wont to be. A rule acts or gives up; it
may not be wrong.
"""

from __future__ import annotations

import pytest
import torch

from tests.properties.anywhere import places, tried_anywhere
from tests.properties.test_rules import ALL_CASES, Merged, traced

PLAIN = Merged(batch=2, tokens=12, channels=6, front=1, back=0, groups=7, seed=0)


@pytest.mark.parametrize("name", ALL_CASES)
def test_rule_keeps_the_law_anywhere(name: str) -> None:
    case = ALL_CASES[name]
    program = traced(case, PLAIN)
    generator = torch.Generator().manual_seed(0)
    shapes = [PLAIN.shape(letters) for letters in ("BNC", *case.operands)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    for tried in tried_anywhere(program, case.f, tensors, list(places(tensors)), generator):
        assert not tried.problem, f"{tried.place}: {tried.problem}"

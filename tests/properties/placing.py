"""(p) the pass computes where its program does, whatever its user's default device.

A stand-in for a GPU: fake tensors of another device than the one on which torch makes tensors when
nothing is said, and the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pitome_fx.passes.pipeline import Outcome
from tests.properties.build import build
from tests.properties.description import Options, Program
from tests.properties.laws import metadata
from tests.properties.trial import Flat, Trial, rewritten, tried

ELSEWHERE = torch.device("meta")


@dataclass(frozen=True)
class Elsewhere(Flat):
    """Traced on another device than that of what torch makes by default."""

    def fakes(self, values: list[Tensor]) -> list[Tensor]:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return [torch.empty_like(x, device=ELSEWHERE) for x in values]


def placed(program: Program, options: Options) -> Trial:
    """(p) the same is merged of a program elsewhere, and under another default device."""
    flat = Flat(*build(program))
    outcome = rewritten(flat, options)
    elsewhere = rewritten(Elsewhere(flat.module, flat.inputs), options)
    with ELSEWHERE:
        by_default = rewritten(flat, options, outcome.program)
    if outcome.rewritten is None:
        assert by_default.rewritten is None
        assert elsewhere.rewritten is None
        return replace(tried(outcome, flat), waived="nothing merges")
    assert by_default.rewritten is not None
    values, wanted = (metadata(x.rewritten.graph).values() for x in (by_default, outcome))
    assert list(values) == list(wanted)
    # Ops that only restore strides are left out: those of a convolution depend on its device.
    assert events(elsewhere) == events(outcome)
    return tried(outcome, flat)


def events(outcome: Outcome) -> tuple[Any, ...]:
    """What is merged, unmerged and averaged, and where."""
    assert outcome.rewritten is not None
    done = outcome.rewritten
    merges = [(merged.before, merged.after) for merged in done.merges]
    return merges, [str(x.node) for x in done.lifts], [str(x.node) for x in done.projections]

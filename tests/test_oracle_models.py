"""Rewritten = simulated: the law, on models of many makes."""

import functools

import pytest
import torch
from torch.export import ExportedProgram

from pitome_fx.frontends import export
from tests.support.blocks import BY_HAND
from tests.support.models import HUGGING_FACE, TIMM, TORCH, Case
from tests.support.oracle import assert_keeps_the_law, relative_error

MODELS = {**TIMM, **HUGGING_FACE, **TORCH, **BY_HAND}


@functools.lru_cache(maxsize=2)
def exported(name: str, dtype: torch.dtype) -> tuple[Case, ExportedProgram]:
    """A model of the table, exported once for all ratios."""
    torch.manual_seed(0)
    case = MODELS[name]().to(dtype)
    return case, export(case.model, case.args, case.kwargs)


def tokens_left(tokens: int, ratio: float, blocks: int) -> int:
    """T − floor(T − T·ratio), block after block."""
    for _ in range(blocks):
        tokens -= tokens * round(100 * (1 - ratio)) // 100
    return tokens


@pytest.mark.parametrize("ratio", [0.95, 0.8, 0.6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", MODELS)
def test_rewritten_is_simulated(name: str, dtype: torch.dtype, ratio: float) -> None:
    case, program = exported(name, dtype)
    done = assert_keeps_the_law(case, program, ratio=ratio)
    assert relative_error(done.output, done.dense) > 1e-4, "merging must have had an effect"

    assert len(done.assignments) == case.merges
    protected = done.assignments[0].shape[1] - case.tokens
    groups = int(done.assignments[-1].max()) + 1
    assert groups == protected + tokens_left(case.tokens, ratio, case.merges)

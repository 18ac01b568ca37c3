"""Rewritten = simulated: the law, on models of many makes."""

import pytest
import torch

from tests.support.blocks import BY_HAND
from tests.support.models import HUGGING_FACE, TIMM, TORCH
from tests.support.oracle import assert_keeps_the_law, relative_error

MODELS = {**TIMM, **HUGGING_FACE, **TORCH, **BY_HAND}
RATIOS = (0.95, 0.8, 0.6)


def tokens_left(tokens: int, ratio: float, blocks: int) -> int:
    """T − floor(T − T·ratio), block after block, at most half of the tokens going each time."""
    percent = round(100 * (1 - ratio))
    for _ in range(blocks):
        tokens -= min(tokens * percent // 100, tokens // 2)
    return tokens


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", MODELS)
def test_rewritten_is_simulated(name: str, ratio: float, dtype: torch.dtype) -> None:
    case = MODELS[name]().to(dtype)
    done = assert_keeps_the_law(case, ratio=ratio)
    assert len(done.assignments) == case.merges
    assert relative_error(done.output, done.dense) > 1e-4, "merging must have had an effect"

"""Rewritten = simulated: the law, on models of many makes."""

import functools
import itertools
import math
from fractions import Fraction

import pytest
import torch
from torch.export import ExportedProgram

from pitome_fx.frontends.transform import export
from tests.support.blocks import BY_HAND, SPELLINGS, Transformer, by_hand
from tests.support.device import DEVICE
from tests.support.models import HUGGING_FACE, TIMM, TORCH, Case
from tests.support.oracle import assert_close, assert_keeps_the_law, relative_error, transformed
from tests.support.reference import MergingTransformer

LIBRARIES = {**TIMM, **HUGGING_FACE, **TORCH}
MODELS = {**LIBRARIES, **BY_HAND}

CHECKS = [
    *itertools.product(LIBRARIES, (torch.float64,), (0.95, 0.8, 0.6)),
    *itertools.product(MODELS, (torch.float32,), (0.8,)),
    *itertools.product(BY_HAND, (torch.float64,), (0.8,)),
]


@functools.lru_cache(maxsize=2)
def exported(name: str, dtype: torch.dtype) -> tuple[Case, ExportedProgram]:
    """A model of the table, exported once for all ratios."""
    torch.manual_seed(0)
    case = MODELS[name]().to(dtype, DEVICE)
    return case, export(case.model, case.args, case.kwargs)


def tokens_left(case: Case, ratio: float) -> int:
    """⌈T·ratioⁿ⌉ of T tokens after n blocks; of padding and others one token is not counted."""
    kept = Fraction(round(100 * ratio), 100) ** case.merges
    return case.padded + math.ceil((case.tokens - case.padded) * kept)


@pytest.mark.parametrize(("name", "dtype", "ratio"), CHECKS)
def test_rewritten_is_simulated(name: str, dtype: torch.dtype, ratio: float) -> None:
    case, program = exported(name, dtype)
    done = assert_keeps_the_law(case, program, ratio=ratio)
    assert relative_error(done.output, done.dense) > 1e-4, "merging must have had an effect"

    assert len(done.assignments) == case.merges
    protected = done.assignments[0].shape[1] - case.tokens
    groups = int(done.assignments[-1].max()) + 1
    assert groups == protected + tokens_left(case, ratio)


@pytest.mark.parametrize("algorithm", ["pitome-elu", "pitome-text", "tome"])
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_rewritten_is_simulated_for_every_algorithm(name: str, algorithm: str) -> None:
    case, program = exported(name, torch.float64)
    assert_keeps_the_law(case, program, ratio=0.8, algorithm=algorithm)


@pytest.mark.parametrize("percent_kept", [95, 80, 60])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_transformed_is_a_hand_written_pitome_vit(pool: str, percent_kept: int) -> None:
    assert_is_by_paper(by_hand("sdpa", pool=pool), percent_kept)


@pytest.mark.parametrize("post_norm", [False, True])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_however_it_is_spelled(spelling: str, post_norm: bool) -> None:
    """Keys are compared and not queries; a post-norm comes before the merge."""
    assert_is_by_paper(by_hand(spelling, post_norm=post_norm), percent_kept=80)


def assert_is_by_paper(case: Case, percent_kept: int) -> None:
    case = case.to(torch.float64, DEVICE)
    assert isinstance(case.model, Transformer)
    by_paper = MergingTransformer(case.model, percent_merged=100 - percent_kept)
    with torch.no_grad():
        compiled = transformed(case, ratio=percent_kept / 100, algorithm="pitome")(*case.args)
        assert_close(compiled, by_paper(*case.args), 1e-9)

"""Models whose weights are tensor subclasses: quantised, distributed, wrapped, parametrised."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.support.blocks import by_hand
from tests.support.compiled import output_of
from tests.support.models import Case, bert, hf_vit, timm_vit
from tests.support.oracle import assert_close, expected
from tests.support.subclasses import OnlyLinear, Wrapper, with_weights


def wrapped(case: Case, cls: type[Wrapper], **how: Any) -> Case:
    """A copy of a case with subclass weights."""
    model = with_weights(copy.deepcopy(case.model), cls.of, **how)
    return Case(model, case.args, case.kwargs, case.merges, case.tokens)


MODELS = {"by-hand": by_hand, "vit": timm_vit, "bert": bert, "hf-vit": hf_vit}


@pytest.mark.parametrize("buffers", [False, True])
@pytest.mark.parametrize("cls", [Wrapper, OnlyLinear])
@pytest.mark.parametrize("name", MODELS)
def test_merged_as_with_plain_weights(name: str, cls: type[Wrapper], buffers: bool) -> None:
    case = MODELS[name]().to(torch.float64)
    other = wrapped(case, cls, buffers=buffers)
    assert_close(output_of(other, ratio=0.8), expected(case, ratio=0.8), 1e-9)

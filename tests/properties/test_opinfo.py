"""A slice of the sweep over PyTorch's own samples; all of it is `make opinfo`."""

from __future__ import annotations

import pytest

from tests.properties.opinfo import sweep

SLICE = [
    "addcmul",
    "bernoulli",
    "clamp",
    "cumsum",
    "expand_as",
    "frexp",
    "gather",
    "histogramdd",
    "lerp",
    "masked_fill",
    "matmul",
    "nn.functional.prelu",
    "nn.functional.scaled_dot_product_attention",
    "squeeze",
    "take_along_dim",
    "where",
]


@pytest.mark.parametrize("name", SLICE)
def test_samples_keep_the_law(name: str) -> None:
    found = sweep(name, samples=4)
    assert not [what for what in found if what.startswith("FAILED")]
    assert found["acted"] + found["lifted"]

"""Every test begins with no kind of region known."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pitome_fx.backends import kinds


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """Regions that other tests compiled are none of this one's."""
    before = dict(kinds.KINDS)
    kinds.KINDS.clear()
    torch._dynamo.reset()
    yield
    kinds.KINDS.clear()
    kinds.KINDS.update(before)

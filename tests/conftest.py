"""What every test starts from: fixed seeds, a fresh compiler and an empty compile cache."""

import random
from collections.abc import Iterator

import pytest
import torch
import torch._dynamo

from tests.known_gaps import KNOWN_GAPS
from tests.support.torchvision_shim import define_missing_ops

define_missing_ops()


@pytest.fixture(scope="session", autouse=True)
def _fresh_inductor_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An entry left by an earlier run could hide a bug that this one has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.fixture(autouse=True)
def _fresh_state() -> None:
    """Each test draws the same numbers and compiles anew, whichever tests ran before it."""
    random.seed(0)
    torch.manual_seed(0)
    torch._dynamo.reset()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the known gaps; they show as xfailed in every run."""
    for item in items:
        for start, why in KNOWN_GAPS.items():
            if item.nodeid.removeprefix("tests/").startswith(start):
                item.add_marker(pytest.mark.xfail(reason=why))

"""What every test starts from: fixed seeds, a fresh compiler and an empty compile cache."""

import gc
import random
from collections.abc import Iterator

import pytest
import torch
import torch._dynamo

from tests.support.torchvision_shim import define_missing_ops

define_missing_ops()

# Traces are made of many small objects that live on: looking for garbage takes a tenth.
gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="session", autouse=True)
def _fresh_inductor_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An entry left by an earlier run could hide a bug that this one has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_files_of_failures() -> Iterator[None]:
    """Tests that make something fail leave nothing in the temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PITOME_FX_REPRODUCERS", "off")
        yield


@pytest.fixture(autouse=True)
def _fresh_state() -> None:
    """Each test draws the same numbers and compiles anew, whichever tests ran before it."""
    random.seed(0)
    torch.manual_seed(0)
    torch._dynamo.reset()

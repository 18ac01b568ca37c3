"""Seconds of a call, with the work it queues on an accelerator."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

Call = Callable[[], object]


def seconds_of(call: Call, repeats: int = 1, device: torch.device | str = "cpu") -> float:
    """Mean wall-clock seconds of `repeats` calls, including all the work queued on `device`."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def synchronize(device: torch.device | str) -> None:
    """Wait for the work queued on a CUDA device; nothing to wait for on a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)

"""Interleaved timing: callables are compared within one run, round by round, with their spread."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from pitome_fx.clock import Call, seconds_of


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a sample; the unit is the sample's."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, sample: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        if len(sample) == 1:
            return cls(sample[0], sample[0], sample[0])
        return cls(*statistics.quantiles(sample, n=4, method="inclusive"))

    def show(self, scale: float = 1.0, unit: str = "", digits: int = 2) -> str:
        """`median unit [low–high]`, multiplied by `scale`."""
        low, median, high = (f"{v * scale:.{digits}f}" for v in (self.low, self.median, self.high))
        return f"{median}{unit} [{low}–{high}]"


@dataclass(frozen=True)
class Timings:
    """Seconds per call of each callable, one entry per round; round i of all ran side by side."""

    seconds: Mapping[str, Sequence[float]]

    def spread(self, name: str) -> Spread:
        """Seconds per call."""
        return Spread.of(self.seconds[name])

    def speedup(self, base: str, other: str) -> Spread:
        """How many times faster `other` is than `base`: quartiles of the ratio within each round.

        A disturbance that lasts longer than a round slows both and cancels out.
        """
        pairs = zip(self.seconds[base], self.seconds[other], strict=True)
        return Spread.of([b / o for b, o in pairs])

    def ratio_of_medians(self, base: str, other: str) -> float:
        """Median seconds of `base` over median seconds of `other`."""
        return self.spread(base).median / self.spread(other).median


def interleaved(
    calls: Mapping[str, Call],
    *,
    rounds: int = 20,
    warmup: int = 3,
    at_least: float = 0.05,
    device: torch.device | str = "cpu",
    on_round: Callable[[int], object] = lambda done: None,
) -> Timings:
    """Time every callable once per round, after `warmup` untimed rounds (one at the least).

    The order rotates from round to round, so that none always runs on another's warm cache.
    A call shorter than `at_least` seconds is repeated to fill them, and the mean counts. On CUDA
    the clock runs from an idle device to an idle device. `on_round` gets the number of timed
    rounds done.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(max(1, warmup)):
        once = {name: seconds_of(call, 1, device) for name, call in calls.items()}
    repeats = {name: max(1, math.ceil(at_least / took)) for name, took in once.items()}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(seconds_of(calls[name], repeats[name], device))
        on_round(turn + 1)
    return Timings(seconds)


def machine(device: torch.device | str = "cpu") -> dict[str, str]:
    """What a number needs beside it: processor, cores, accelerator and versions."""
    facts = {
        "cpu": f"{_cpu_name()}, {_usable_cores()} usable cores, {torch.get_num_threads()} threads",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["gpu"] = f"{properties.name}, CUDA {torch.version.cuda}"
    facts["python"] = platform.python_version()
    facts["torch"] = torch.__version__
    facts["pitome-fx"] = _version("pitome-fx")
    return facts


def header(device: torch.device | str = "cpu") -> str:
    """`machine` as lines of text."""
    return "\n".join(f"{key:<10}{value}" for key, value in machine(device).items())


def _usable_cores() -> int:
    # A container may be pinned to fewer cores than the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _cpu_name() -> str:
    # platform.processor() is empty or only the architecture on most Linux systems.
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"

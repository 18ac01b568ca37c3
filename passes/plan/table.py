"""How long ops take on a device: measured once for each op and shape, and kept on disk."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from pitome_fx.clock import Call, seconds_of
from pitome_fx.progress import saying

FOLDER = "PITOME_FX_CACHE"
"""Environment variable that says where tables lie, in place of the user's cache folder."""

ROUNDS = 8
"""Each call is measured in so many rounds over all, and its shortest time is kept: what disturbs a
machine for a while disturbs one of them."""

SECONDS_PER_ROUND = 0.004
CALLS_PER_ROUND = 20
"""A call is repeated until either is reached."""


class DeviceTable:
    """Seconds of calls on one device, by what describes them; None for what does not run alone.

    Args:
        device: that the calls run on.
        name: what the device is called; tables are kept by it, with torch's version and, on a CPU,
            the number of threads.
    """

    def __init__(self, device: torch.device, name: str | None = None) -> None:
        self.device = device
        self.name = name or name_of(device)
        self.path = folder() / f"{_as_file_name(self.name)}.json"
        self.seconds: dict[str, float | None] = _read(self.path)

    def measure(self, calls: Mapping[str, Callable[[], Call]]) -> None:
        """Measure what is not in the table yet, showing progress, and write it down.

        Args:
            calls: makes what is to be run, by its description.
        """
        missing = [key for key in calls if key not in self.seconds]
        if not missing:
            return
        total = ROUNDS * len(missing)
        with _undisturbed(self.device), saying() as say:
            for done in range(total):
                key = missing[done % len(missing)]
                self._keep_shortest(key, self._seconds_of(calls[key]))
                say("measuring this device", done + 1, total)
        _write(self.path, {**_read(self.path), **self.seconds})

    def _keep_shortest(self, key: str, seconds: float | None) -> None:
        before = self.seconds.get(key)
        self.seconds[key] = seconds if before is None or seconds is None else min(before, seconds)

    def _seconds_of(self, make: Callable[[], Call]) -> float | None:
        try:
            call = make()
            call()
        except (RuntimeError, IndexError, TypeError, ValueError):
            # It needs values that are not known here, such as indices in range.
            return None
        # The shortest of single calls: a mean over many holds whatever else the machine did.
        taken = [seconds_of(call, device=self.device)]
        while sum(taken) < SECONDS_PER_ROUND and len(taken) < CALLS_PER_ROUND:
            taken.append(seconds_of(call, device=self.device))
        return min(taken)


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Run for real in the midst of a trace, and leave random generators as they are."""
    devices = [device] if device.type == "cuda" else []
    with _disable_current_modes(), torch.no_grad(), torch.random.fork_rng(devices):
        yield


def name_of(device: torch.device) -> str:
    """Of a device, with what else decides how fast it is."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} torch {torch.__version__}"
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{device.type} {processor} {torch.get_num_threads()} threads torch {torch.__version__}"


def folder() -> Path:
    """Where tables are kept."""
    given = os.environ.get(FOLDER)
    if given:
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "pitome_fx"


def _as_file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in name)


def _read(path: Path) -> dict[str, float | None]:
    """A table from disk; an empty one where there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if value is None or _is_seconds(value)}


def _is_seconds(value: Any) -> bool:
    return isinstance(value, float | int) and 0 <= value < float("inf")


def _write(path: Path, table: Mapping[str, float | None]) -> None:
    """Put a table in place at once, so that no other process reads half of it.

    Where the folder cannot be written, the next process measures again.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(table, file, indent=0, sort_keys=True)
        os.replace(file.name, path)
    except OSError as error:
        print(f"pitome: {path} cannot be written ({error})", file=sys.stderr)

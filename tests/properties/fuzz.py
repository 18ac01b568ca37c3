"""Tries many drawn programs; writes a runnable file for every failure, shrunk.

python -m tests.properties.fuzz 1000 [seed] [processes]
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.database import InMemoryExampleDatabase
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.properties.description import Options, Program
from tests.properties.programs import options, programs
from tests.properties.statistics import Shares
from tests.properties.ways import WAYS, rounds

FOLDER = Path(".cache/fuzz")
GOALS = {"merges": 0.6, "alien op": 0.3}
"""Shares of the programs, asked of runs that are long enough to tell."""

ENOUGH = 400

BYTES = 8192
"""Of randomness for one program; what needs more is not drawn."""

ROUNDS_PER_PROCESS = 20
"""A fresh process now and then: Dynamo and Inductor keep what they compiled."""

REPRODUCER = '''\
"""{error}

Run in the root of the repository: PYTHONPATH=. python {path}
"""

from tests.properties.description import *
from tests.properties.ways import {way}

program = {program!r}
options = {options!r}
print({way}(program, options).report)
'''


@dataclass
class Round:
    """Programs tried in one way, and the simplest of them that failed."""

    way: str
    shares: Shares = field(default_factory=Shares)
    failing: tuple[Program, Options] | None = None
    error: str = ""

    def one(self, program: Program, chosen: Options) -> None:
        """One program; a failure is remembered, and Hypothesis told of it."""
        try:
            trial = WAYS[self.way](program, chosen)
        except Exception as error:
            self.failing = (program, chosen)
            self.error = "".join(traceback.format_exception_only(error)).strip()
            raise
        if self.failing is None:  # what is tried while shrinking says nothing of the generator
            self.shares.add(program, trial, self.way)


def play(number: int, way: str, examples: int) -> Round:
    """Draw and try some programs; the same for the same number."""
    found = Round(way)

    @settings(
        phases=[Phase.reuse, Phase.shrink],
        deadline=None,
        database=InMemoryExampleDatabase(),
        # A program is a large draw, takes a quarter of a second, and is to be shrunk anyway.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(programs(), options())
    def draw(program: Program, chosen: Options) -> None:
        found.one(program, chosen)

    warnings.simplefilter("ignore")
    # Traces are made of many small objects that live on: looking for garbage takes a tenth.
    gc.set_threshold(100_000, 50, 100)
    # Independent draws: Hypothesis's own are variations of one another, and larger each time.
    generator = random.Random(number)
    while found.failing is None and found.shares.programs < examples:
        try:
            draw.hypothesis.fuzz_one_input(generator.randbytes(BYTES))
        except Exception:
            if found.failing is None:
                raise
    if found.failing is not None:
        with contextlib.suppress(Exception):  # it fails again, in its simplest form
            draw()
    return found


@dataclass
class Worker:
    """A process that plays rounds.

    ``max_tasks_per_child`` of one pool would do, but Python 3.11 loses processes by it (gh-115634).
    """

    pool: ProcessPoolExecutor
    left: int

    @classmethod
    def start(cls) -> Worker:
        spawn = multiprocessing.get_context("spawn")
        return cls(ProcessPoolExecutor(1, mp_context=spawn), ROUNDS_PER_PROCESS)


def play_in_parallel(count: int, first: int, processes: int) -> Iterator[tuple[Round, int]]:
    """Every round as it is done, and how many programs it was asked for."""
    waiting = enumerate(rounds(count), first)
    idle: list[Worker] = [Worker.start() for _ in range(processes)]
    busy: dict[Future[Round], tuple[Worker, int]] = {}
    try:
        while True:
            while idle and (following := next(waiting, None)):
                worker, (number, (way, examples)) = idle.pop(), following
                worker.left -= 1
                busy[worker.pool.submit(play, number, way, examples)] = worker, examples
            if not busy:
                return
            for done in wait(busy, return_when=FIRST_COMPLETED).done:
                worker, examples = busy.pop(done)
                if not worker.left:
                    worker.pool.shutdown(wait=False)
                    worker = Worker.start()
                idle.append(worker)
                yield done.result(), examples
    finally:
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            worker.pool.shutdown(wait=False, cancel_futures=True)


def write(found: Round) -> Path:
    """A file that fails as the round did, by itself."""
    assert found.failing is not None
    program, chosen = found.failing
    first = found.error.splitlines()[0] if found.error else ""
    digest = hashlib.sha1(repr((found.failing, found.way)).encode()).hexdigest()[:10]
    path = FOLDER / f"failure_{digest}.py"
    FOLDER.mkdir(parents=True, exist_ok=True)
    summary = first.replace('"""', "'''").replace("\\", "/")
    path.write_text(
        REPRODUCER.format(error=summary, path=path, program=program, options=chosen, way=found.way)
    )
    return path


@contextlib.contextmanager
def fresh_compile_cache() -> Iterator[None]:
    """What an earlier run left, or left half written when it was stopped, is not met again."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", folder)
        yield


def main(count: int, first: int, processes: int) -> int:
    """Fuzz with ``count`` programs; 0 if none failed and the shares are what they should be."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    start, total, failures = time.perf_counter(), Shares(), set[Path]()
    with Progress(*columns) as progress, fresh_compile_cache():
        task = progress.add_task("programs", total=count, failed=0)
        for found, examples in play_in_parallel(count, first, processes):
            total += found.shares
            if found.failing is not None:
                path = write(found)
                failures.add(path)
                progress.console.print(f"[red]{path}[/]: {found.error}")
            progress.update(task, advance=examples, failed=len(failures))
            if not progress.console.is_terminal and total.programs % 400 < examples:
                progress.console.print(f"{total.programs} programs, {len(failures)} failed")
                progress.console.file.flush()
    print(total)
    print(f"{time.perf_counter() - start:.0f} s; {len(failures)} programs fail")
    judged = GOALS if total.programs >= ENOUGH else {}
    short = [name for name, goal in judged.items() if total.share(name) < goal]
    for name in short:
        print(f"too few programs: {name} {total.share(name):.0%} < {GOALS[name]:.0%}")
    return bool(failures or short)


if __name__ == "__main__":
    given_numbers = [int(text) for text in sys.argv[1:]]
    sys.exit(main(*(given_numbers + [1000, 0, 2][len(given_numbers) :])))

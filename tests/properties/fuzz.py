"""Runs many drawn programs beside their simulation; writes a runnable file for every failure.

python -m tests.properties.fuzz 1000 [seed]
"""

from __future__ import annotations

import hashlib
import sys
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.properties.description import Options, Program
from tests.properties.law import check
from tests.properties.programs import options, programs
from tests.properties.statistics import Shares

FOLDER = Path(".cache/fuzz")
ROUND = 100
GOALS = {"merges": 0.6, "alien op": 0.3}
REPRODUCER = '''\
"""{error}

Run in the root of the repository: PYTHONPATH=. python {path}
"""

from tests.properties.description import *
from tests.properties.law import check

program = {program!r}
options = {options!r}
print(check(program, options).report)
'''


class Fuzzer:
    """Draws programs in rounds; a failing round is shrunk, written down and left behind."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress = progress
        self.task = progress.add_task("programs", total=total, failed=0)
        self.shares = Shares()
        self.failures: dict[Path, str] = {}
        self.failing: tuple[Program, Options, Exception] | None = None

    def round(self, examples: int, number: int) -> None:
        """Draw some programs; of those that fail, keep the simplest."""
        self.failing = None
        start = self.shares.programs

        @seed(number)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            # A program is a large draw, takes a quarter of a second, and is to be shrunk anyway.
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(programs(), options())
        def draw(program: Program, chosen: Options) -> None:
            self.one(program, chosen)

        try:
            draw()
        except Exception as error:
            if self.failing is None:
                raise
            self.write(*self.failing, error)
        done = self.shares.programs - start
        self.progress.advance(self.task, max(examples - done, 0))

    def one(self, program: Program, chosen: Options) -> None:
        """One program; a failure is remembered, and Hypothesis told of it."""
        try:
            trial = check(program, chosen)
        except Exception as error:
            self.failing = (program, chosen, error)
            raise
        if self.failing is None:  # what is tried while shrinking says nothing of the generator
            self.shares.add(program, trial)
            self.progress.advance(self.task)

    def write(self, program: Program, chosen: Options, error: Exception, _: Exception) -> None:
        """A file that fails in the same way, by itself."""
        first = str(error).splitlines()[0] if str(error) else ""
        summary = f"{type(error).__name__}: {first}".replace('"""', "'''")
        digest = hashlib.sha1(repr((program, chosen)).encode()).hexdigest()[:10]
        path = FOLDER / f"failure_{digest}.py"
        FOLDER.mkdir(parents=True, exist_ok=True)
        path.write_text(
            REPRODUCER.format(error=summary, path=path, program=program, options=chosen)
        )
        self.failures[path] = "".join(traceback.format_exception_only(error)).strip()
        self.progress.update(self.task, failed=len(self.failures))
        self.progress.console.print(f"[red]{path}[/]: {summary}")


def main(count: int, first: int) -> int:
    """Fuzz with ``count`` programs; 0 if none failed and the shares are what they should be."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    start = time.perf_counter()
    with Progress(*columns) as progress:
        fuzzer = Fuzzer(progress, count)
        for i in range(0, count, ROUND):
            fuzzer.round(min(ROUND, count - i), first + i // ROUND)
    seconds = (time.perf_counter() - start) / count
    print(fuzzer.shares)
    print(f"{seconds:.2f} s per program; {len(fuzzer.failures)} failures")
    short = [name for name, goal in GOALS.items() if fuzzer.shares.share(name) < goal]
    for name in short:
        print(f"too few programs: {name} {fuzzer.shares.share(name):.0%} < {GOALS[name]:.0%}")
    return bool(fuzzer.failures or short)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))

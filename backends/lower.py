"""Lowers a graph by the lowering that the options name."""

from __future__ import annotations

import time

from pitome_fx.backends.lowering import LOWERINGS, Compiled, Job, Lowering
from pitome_fx.backends.registered import REGISTERED
from pitome_fx.errors import OptionsError
from pitome_fx.options import Options
from pitome_fx.passes.observing import log_line


def check_lowering(options: Options, mode: str | None) -> None:
    """Fail on an unknown lowering, or an option it does not take, before any work is done."""
    lowering = _lowering(options)
    if mode is not None and not lowering.takes_mode:
        taking = next(name for name, own in LOWERINGS.items() if own.takes_mode)
        raise OptionsError(f"mode={mode!r} is for lowering={taking!r} only")
    if options.regions is True and not lowering.takes_regions:
        taking = next(name for name, own in LOWERINGS.items() if own.takes_regions)
        raise OptionsError(f"regions=True is for lowering={taking!r} only")
    if lowering.form == "portable" and options.form in ("pitome", "aten"):
        raise OptionsError(
            f"form={options.form!r} is nothing that lowering={options.lowering!r} takes: leave "
            "form out, or give form='portable'"
        )
    lowering.check(options)


def lower(job: Job) -> Compiled:
    """Compile a graph.

    Raises:
        OptionsError: there is no such lowering, or it does not take the options given.
        LoweringError: the engine cannot take this graph.
    """
    start = time.perf_counter()
    compiled = _lowering(job.options).compile(job)
    kind = "merged" if job.merged else "dense"
    log_line("lower", time.perf_counter() - start, f"the {kind} graph by {job.options.lowering}")
    return compiled


def _lowering(options: Options) -> Lowering:
    return LOWERINGS.get(options.lowering, REGISTERED)

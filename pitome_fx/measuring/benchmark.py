"""benchmark: how much faster a model runs on merged tokens, on a user's own inputs and device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch._inductor.utils import fresh_cache

from pitome_fx.backends.kinds import forgetting_kinds
from pitome_fx.errors import UsageError
from pitome_fx.frontends.compiling import compiled_apart
from pitome_fx.frontends.explain import explain
from pitome_fx.measuring.inputs import Call, dense_model
from pitome_fx.measuring.memory import peak_memory
from pitome_fx.measuring.speeds import DENSE, Benchmark, Run
from pitome_fx.measuring.timing import interleaved, machine
from pitome_fx.options import Options
from pitome_fx.progress import Say, saying
from pitome_fx.report import Report, notes_of

OptionSet = Mapping[str, Any] | Options


def benchmark(
    model: Any,
    inputs: Any,
    options: OptionSet | Sequence[OptionSet] | None = None,
    *,
    rounds: int = 20,
    cold: bool = False,
    progress: bool = True,
) -> Benchmark:
    """Time the dense and the merged model side by side, lowered alike, on the inputs' device.

    The model runs as it is, in its mode and dtype and without gradients. Each round times all ways
    of running it, in an order that rotates, so that a disturbance of the machine hits all alike.

    Args:
        model: a module or any callable that torch.compile takes.
        inputs: of one call: a tensor, a tuple of positional arguments, or a mapping of named ones.
        options: of the merged model, as in ``Options``, or a list of several sets of them. All
            must name one lowering, with which the dense model runs too.
        rounds: of timing, at least 1.
        cold: compile with empty caches, so that a first call takes what it takes in a process that
            finds none; else the caches are used as they are.
        progress: show what is going on, where the error output is a terminal.

    Raises:
        OptionsError: an option is wrong.
        UsageError: the inputs are no arguments of a call, the sets name several lowerings, or the
            model is transformed already.
    """
    model, call = dense_model(model), Call.of(inputs)
    if rounds < 1:
        raise UsageError(f"rounds={rounds}: expected at least 1")
    ways = _ways(options)
    with saying(progress) as say, torch.no_grad():
        call(model)  # Its own errors come first, and as its own.
        with _empty_caches() if cold else contextlib.nullcontext():
            tried = [_try(way, model, call, say) for way in ways]
            timings = interleaved(
                {way.name: way.run for way in tried},
                rounds=rounds,
                device=call.device,
                on_round=lambda done: say("timing", done, rounds),
            )
        say("peak memory")
        peaks = {way.name: peak_memory(way.run, call.device) for way in tried}
    flops = next(way.report.flops_before for way in tried if way.report is not None)
    runs = tuple(
        Run(
            name=way.name,
            options=way.options.changed(),
            seconds=timings.spread(way.name),
            speedup=timings.speedup(DENSE, way.name),
            flops=flops if way.report is None else way.report.flops_after,
            peak_bytes=peaks[way.name],
            first_call=way.first_call,
            merged=0 if way.report is None else way.report.merged,
            sites=0 if way.report is None else len(way.report.blocks),
            notes=() if way.report is None else notes_of(way.report),
        )
        for way in tried
    )
    return Benchmark(runs, rounds, cold, machine(call.device))


@dataclass(frozen=True)
class _Way:
    """A way of running the model."""

    name: str
    options: Options


@dataclass(frozen=True)
class _Tried(_Way):
    """A way that was compiled.

    Attributes:
        report: of the pass; None for the dense model.
        run: one call.
        first_call: seconds, compiling included.
    """

    report: Report | None
    run: Callable[[], object]
    first_call: float


def _ways(options: OptionSet | Sequence[OptionSet] | None) -> list[_Way]:
    """Dense, and one for each set of options."""
    listed = options if isinstance(options, Sequence) else [options or {}]
    sets = [Options.parse(given) for given in listed]
    if not sets:
        raise UsageError("options=[]: expected at least one set of options")
    lowerings = dict.fromkeys((s.lowering, repr(dict(s.lowering_options))) for s in sets)
    if len(lowerings) > 1:
        raise UsageError(
            "these sets of options are lowered in several ways "
            f"({', '.join(' '.join(how) for how in lowerings)}): the dense model runs in one, so "
            "benchmark each by itself"
        )
    like = sets[0]
    dense = Options(ratio=1.0, lowering=like.lowering, lowering_options=like.lowering_options)
    names = [str(own) for own in sets]
    # Sets that are written alike are told apart by their place.
    if len(set(names)) < len(names):
        names = [f"{i}: {name}" for i, name in enumerate(names)]
    return [_Way(DENSE, dense), *(_Way(n, s) for n, s in zip(names, sets, strict=True))]


def _try(way: _Way, model: Any, call: Call, say: Say) -> _Tried:
    """Look at what merges, and compile."""
    report = None
    if way.name != DENSE:
        say(f"{way.name}: looking")
        report = explain(model, call.args, call.kwargs, **way.options.changed())
    say(f"{way.name}: compiling")
    compiled = compiled_apart(model, "pitome", options=way.options.changed())
    start = time.perf_counter()
    call(compiled)
    first_call = time.perf_counter() - start
    return _Tried(way.name, way.options, report, partial(call, compiled), first_call)


@contextlib.contextmanager
def _empty_caches() -> Iterator[None]:
    with fresh_cache(), forgetting_kinds():
        yield

"""calibrate: a schedule for a user's model, by how far its own outputs move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pitome_fx.algorithms import ALGORITHMS
from pitome_fx.calibration.spend import STEP, Sensitivity, spend
from pitome_fx.errors import OptionsError, RefusedError
from pitome_fx.frontends.transform import export
from pitome_fx.frontends.transform import transform as merged_with
from pitome_fx.measuring.changes import float_outputs, relative_change
from pitome_fx.options import AMOUNTS, DEFAULT_FLOPS, Options
from pitome_fx.passes import pipeline
from pitome_fx.passes.capture.guards import tentative
from pitome_fx.passes.capture.program import capture_exported
from pitome_fx.passes.dissolve.exported import inputs_of
from pitome_fx.passes.plan.planning import allowed
from pitome_fx.passes.plan.solve import flops_of_schedule
from pitome_fx.passes.plan.timed import seconds_of_schedule
from pitome_fx.passes.reporting import make_report
from pitome_fx.progress import Say, saying
from pitome_fx.report import why_nothing_merges
from pitome_fx.switch import why_off

Inputs = Sequence[Any]
Distance = Callable[[Any, Any], float | Tensor]

CANDIDATES = (("pitome-mean", "hidden"), ("pitome-mean", "keys"), ("crossget", "hidden"))
"""Algorithms and metrics to choose from where the user names none: the best of the study."""


def calibrate(
    model: nn.Module,
    inputs: Inputs | Iterable[Inputs],
    *,
    flops: float | None = None,
    speedup: float | None = None,
    candidates: Sequence[tuple[str, str]] | None = None,
    distance: Distance | None = None,
    progress: bool = True,
    **options: Any,
) -> Options:
    """Find the options that meet a budget with the least change of the model's outputs.

    The change is measured for each block as it merges alone, at two amounts; the budget is spent
    where it is cheapest; and the sum is checked by one run. Nothing is trained and nothing drawn.
    What comes out is no worse on these inputs than the same amount in every block: where the
    schedule is, the uniform one is returned. A table of both is printed.

    Args:
        model: in the mode and on the device it is used in.
        inputs: arguments of one call, ``(x,)``, or several such, of one shape; a few dozen items.
        flops: fraction of the model's FLOPs to keep, in (0, 1]; 0.6 if neither is given.
        speedup: how many times faster than dense a call is to be instead, at least 1, by times
            that are measured on the model's device, as for the option of that name.
        candidates: (algorithm, metric) to choose from, by the change that they make in every
            block alike; the one that the options name, or else the best of docs/study.md.
        distance: ``(merged output, dense output) -> number``, the lower the better; a squared
            distance, as those of blocks are added. By default that of all floating-point outputs,
            relative, averaged over items and outputs.
        progress: show a bar on stderr, and the table.
        options: as in ``Options``, but for the amount.

    Returns:
        Options with a schedule, that ``torch.compile(options=…)`` and ``transform`` take.

    Raises:
        OptionsError: an option is wrong, or an amount is given among them or twice.
        RefusedError: nothing of the model merges, or merging is switched off.
        CaptureError: torch.export cannot trace the model.
    """
    given = [key for key in (*AMOUNTS, "blocks") if options.get(key) is not None]
    if given:
        raise OptionsError(f"{given[0]}={options[given[0]]!r}: calibrate finds that; leave it out.")
    off = why_off()
    if off is not None:
        raise RefusedError(f"calibrate has nothing to measure: {off}.")
    if flops is None and speedup is None:
        flops = DEFAULT_FLOPS
    calls = _calls(inputs)
    named = "algorithm" in options or "metric" in options
    pairs = candidates or (() if named else CANDIDATES)
    tried = [Options.parse({**options, "algorithm": a, "metric": m}) for a, m in pairs]
    tried = tried or [Options.parse(options)]
    tried = [replace(own, flops=flops, speedup=speedup) for own in tried]
    console = Console(stderr=True) if progress else None
    with saying(progress) as say, torch.no_grad():
        return _Calibration(model, calls, distance or squared_change, say).run(tried, console)


def squared_change(found: Any, dense: Any) -> Tensor:
    """|y − y₀|² / |y₀|² of each item (first dimension), mean over items and outputs."""
    changes = [relative_change(a, b).square().mean() for _, a, b in float_outputs(found, dense)]
    return torch.stack(changes).mean() if changes else torch.zeros(())


def _calls(inputs: Inputs | Iterable[Inputs]) -> list[tuple[Any, ...]]:
    """The arguments of every call."""
    given = list(inputs)
    if not given:
        raise ValueError("calibrate needs inputs: (x,), the arguments of a call, or several such")
    if not all(isinstance(call, tuple | list) for call in given):
        given = [given]
    return [tuple(call) for call in given]


class _Calibration:
    """One run of ``calibrate``."""

    def __init__(
        self,
        model: nn.Module,
        calls: Sequence[tuple[Any, ...]],
        distance: Distance,
        say: Say,
    ) -> None:
        self.model, self.calls = model, calls
        self.distance, self.say = distance, say
        self.done = self.total = 0
        # The model's own errors come first, and not as those of a trace.
        self.dense = [model(*call) for call in calls]
        # Traced once: every schedule that is tried starts from it.
        self.exported = export(model, calls[0], None)

    def run(self, tried: Sequence[Options], console: Console | None) -> Options:
        """The best of the candidates, with a schedule."""
        self.total = len(tried) + 1
        uniform = [(self.change(options), options) for options in tried]
        alike, chosen = min(uniform, key=lambda pair: pair[0])
        cost, blocks = self.costs(chosen)
        self.total += 2 * blocks
        sensitivities = [self.sensitivity(chosen, i, blocks) for i in range(blocks)]
        lowest = ALGORITHMS[chosen.algorithm].lowest_ratio
        target = 1 / chosen.speedup if chosen.speedup is not None else chosen.flops
        assert target is not None
        schedule = spend(sensitivities, cost, target, max(lowest, STEP))
        predicted = sum(s.change(1 - r) for s, r in zip(sensitivities, schedule, strict=True))
        best = with_schedule(chosen, schedule)
        measured = self.change(best)
        if console is not None:
            console.print(_table(chosen, sensitivities, schedule))
            console.print(
                f"change of the outputs: {predicted**0.5:.4f} predicted, {measured**0.5:.4f} "
                f"measured; with the same amount in every block {alike**0.5:.4f}"
            )
        return best if measured <= alike else chosen

    def change(self, options: Options) -> float:
        """Of the outputs, mean over all calls."""
        run = self.model if options.merges_nothing else self._merged(options)
        found = [
            float(self.distance(run(*call), dense))
            for call, dense in zip(self.calls, self.dense, strict=True)
        ]
        self.done += 1
        self.say("calibrating", self.done, self.total)
        return sum(found) / len(found)

    def _merged(self, options: Options) -> Callable[..., Any]:
        given = {**options.changed(), "form": "aten", "strict": False}
        return merged_with(self.exported, **given).module()

    def sensitivity(self, options: Options, block: int, blocks: int) -> Sensitivity:
        """Of the outputs to the merge of one block alone."""
        points = []
        for share in (0.1, 0.3):
            ratios = [1.0] * blocks
            ratios[block] = 1 - share
            points.append((share, self.change(with_schedule(options, ratios))))
        return Sensitivity.fit(*points)

    def costs(self, options: Options) -> tuple[Callable[[Sequence[float]], float], int]:
        """The share of the cost as a function of the schedule, and how many blocks it is for."""
        exported = self.exported
        with tentative(inputs_of(exported)):
            outcome = pipeline.run(
                lambda: capture_exported(exported), replace(options, form="pitome")
            )
        blocks, _ = allowed(outcome.detection, outcome.options)
        if outcome.rewritten is None:
            raise RefusedError(why_nothing_merges(make_report([outcome]).blocks))
        of_schedule = seconds_of_schedule if options.is_timed else flops_of_schedule
        labels = outcome.detection.labels
        return of_schedule(outcome.program, labels, blocks, outcome.options), len(blocks)


def with_schedule(options: Options, ratios: Sequence[float]) -> Options:
    """The options with a schedule in place of their amount."""
    kept = {key: value for key, value in options.changed().items() if key not in AMOUNTS}
    return Options.parse({**kept, "schedule": tuple(ratios)})


def _table(options: Options, own: Sequence[Sensitivity], schedule: Sequence[float]) -> Table:
    title = f"{options.algorithm} on {options.metric or ALGORITHMS[options.algorithm].metric}"
    table = Table(title=title)
    for name in ("block", "change at 0.9", "at 0.7", "keep ratio"):
        table.add_column(name, justify="right")
    for i, (sensitivity, ratio) in enumerate(zip(own, schedule, strict=True)):
        changes = (f"{sensitivity.change(share) ** 0.5:.4f}" for share in (0.1, 0.3))
        table.add_row(str(i), *changes, f"{ratio:.2f}")
    return table

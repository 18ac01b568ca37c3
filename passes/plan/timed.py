"""Solving for a target in seconds: by a table of this device, and with what pays there alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pitome_fx.algorithms import ALGORITHMS
from pitome_fx.options import Options
from pitome_fx.passes.capture.program import Program
from pitome_fx.passes.detect.detection import Block
from pitome_fx.passes.plan.amount import Q
from pitome_fx.passes.plan.solve import fraction_with, largest, uniform
from pitome_fx.passes.plan.table import DeviceTable
from pitome_fx.passes.plan.times import TimeModel
from pitome_fx.passes.replay.labels import Labels


@dataclass(frozen=True)
class Seconds:
    """What a program is expected to take for one call."""

    dense: float
    merged: float


@dataclass(frozen=True)
class Timed:
    """A plan for a target in seconds.

    Attributes:
        ratios: numerator of the keep ratio of each block, q where it does not merge.
        refusals: why blocks do not merge, by their position.
        seconds: that are expected.
        note: what the user should know, '' if nothing.
    """

    ratios: tuple[int, ...]
    refusals: dict[int, str]
    seconds: Seconds
    note: str


def solve_for_time(
    program: Program, labels: Labels, blocks: Sequence[Block], options: Options
) -> Timed:
    """The largest keep ratio with which the program is as fast as asked for.

    Merges that take longer than they save are left out. Symbolic sizes count as what they are in
    the present call: the ratio is that of all calls of its graph.

    Args:
        options: with all defaults resolved, and ``speedup`` or ``latency`` among them.
    """
    times = _times(program, labels, blocks, options)
    if not blocks:
        return Timed((), {}, Seconds(times.dense, times.dense), "")
    asked, target = _target(options, times.dense)
    if target >= 1:
        reason = f"{asked} is reached without merging: {times.dense * 1e3:.3g} ms are expected"
        refusals = dict.fromkeys(range(len(blocks)), reason)
        return Timed((Q,) * len(blocks), refusals, Seconds(times.dense, times.dense), "")
    refusals = {}
    paying = set(range(len(blocks)))
    while True:
        found = largest(times, options, target, paying)
        p = found or round(ALGORITHMS[options.algorithm].lowest_ratio * Q)
        left = fraction_with(times, options, uniform(times, p, paying))
        without = {
            i: fraction_with(times, options, uniform(times, p, paying - {i})) for i in paying
        }
        worst = min(without, key=lambda i: without[i], default=None)
        if worst is None or without[worst] > left:
            break
        paying.remove(worst)
        lost = (left - without[worst]) * times.dense
        refusals[worst] = (
            "not profitable on this device: matching and merging take longer than they save, "
            f"by {lost * 1e3:.2g} ms"
        )
    note = "" if found else _out_of_reach(asked, times.dense, left)
    ratios = tuple(p if i in paying else Q for i in range(len(blocks)))
    return Timed(ratios, refusals, Seconds(times.dense, left * times.dense), note)


def seconds_of_schedule(
    program: Program, labels: Labels, blocks: Sequence[Block], options: Options
) -> Callable[[Sequence[float]], float]:
    """The fraction of the seconds that is left, as a function of the keep ratios of the blocks.

    Args:
        options: with all defaults resolved.
    """
    times = _times(program, labels, blocks, options)
    return lambda ratios: fraction_with(times, options, ratios)


def _target(options: Options, dense: float) -> tuple[str, float]:
    """What is asked for, in words, and as a fraction of the dense program's seconds."""
    if options.speedup is not None:
        return f"speedup={options.speedup}", 1 / options.speedup
    assert options.latency is not None
    return f"latency={options.latency}", options.latency / dense if dense else 1.0


def _out_of_reach(asked: str, dense: float, left: float) -> str:
    return (
        f"{asked} is out of reach on this device: where all blocks that pay merge as much as they "
        f"can, {left * dense * 1e3:.3g} ms are expected, {1 / left:.2f} times faster than dense"
    )


def _times(
    program: Program, labels: Labels, blocks: Sequence[Block], options: Options
) -> TimeModel:
    return TimeModel(program, labels, blocks, options, DeviceTable(_device_of(program)))


def _device_of(program: Program) -> torch.device:
    """Where the program computes."""
    devices = [x.device for x in program.inputs if isinstance(x, Tensor)]
    return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))

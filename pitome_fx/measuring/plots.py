"""Pictures of measurements (extra ``viz``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pitome_fx.measuring.speeds import Benchmark


def plot_of_benchmark(found: Benchmark) -> Figure:
    """A bar for each way of running the model: milliseconds per call, with quartiles.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install pitome-fx[viz]") from error
    runs = found.runs[::-1]
    figure = Figure(figsize=(8, 0.6 * len(runs) + 1.2), layout="constrained")
    axes = figure.subplots()
    medians = [run.seconds.median * 1e3 for run in runs]
    spread = [
        [(run.seconds.median - run.seconds.low) * 1e3 for run in runs],
        [(run.seconds.high - run.seconds.median) * 1e3 for run in runs],
    ]
    colors = ["tab:gray" if run is found.dense else "tab:blue" for run in runs]
    bars = axes.barh([run.name for run in runs], medians, xerr=spread, color=colors, capsize=3)
    labels = [f"{run.speedup.median:.2f}× at {run.flops / 1e9:.3g} GFLOPs" for run in runs]
    axes.bar_label(bars, labels, label_type="center", color="white")
    axes.set_xlabel("ms per call, median and quartiles")
    axes.spines[["top", "right"]].set_visible(False)
    return figure

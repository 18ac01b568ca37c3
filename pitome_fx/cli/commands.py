"""The command line from its words to an exit status, and the commands but for export."""

from __future__ import annotations

import argparse
import contextlib
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pitome_fx
from pitome_fx import deploy
from pitome_fx.cli import models
from pitome_fx.cli.arguments import make_parser
from pitome_fx.cli.exporting import export
from pitome_fx.cli.loading import load
from pitome_fx.cli.words import option_set
from pitome_fx.errors import PitomeError, PitomeWarning, UsageError
from pitome_fx.page import writing
from pitome_fx.progress import saying

BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, that of the process if None.

    Returns:
        The exit status: 0, or 2 where something asked for does not exist or does not fit.
    """
    parser = make_parser()
    parsed = parser.parse_args(arguments)
    try:
        with _one_line_warnings(parser.prog):
            COMMANDS[parsed.command](parsed)
    except PitomeError as error:
        if parsed.traceback:
            traceback.print_exc()
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return BAD_INPUT
    return 0


@contextlib.contextmanager
def _one_line_warnings(prog: str) -> Iterator[None]:
    """Our warnings without the line of code that raised them, which is none of the user's."""
    with warnings.catch_warnings():
        # torch's own use of what torch deprecates.
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec", FutureWarning)
        warnings.filterwarnings("ignore", "`torch.jit.script_method`", DeprecationWarning)
        warnings.filterwarnings("always", category=PitomeWarning)
        otherwise = warnings.showwarning

        def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, PitomeWarning):
                text = str(message).removeprefix("pitome: ")
                print(f"{prog}: warning: {text}", file=sys.stderr)
            else:
                otherwise(message, category, *place, **more)

        warnings.showwarning = show
        yield


def explain(parsed: argparse.Namespace) -> None:
    """Print the report, and write it as a page."""
    if parsed.html is not None:
        writing.check(parsed.html)
    call, options = load(parsed)
    with saying() as say:
        say("looking at what merges")
        report = pitome_fx.explain(call.model, call.args, call.kwargs, html=parsed.html, **options)
    print(report.to_json(indent=2) if parsed.json else report)
    if parsed.html is not None and not parsed.json:
        print(f"written  {parsed.html}")


def bench(parsed: argparse.Namespace) -> None:
    """Print how fast the dense and the merged model are."""
    if parsed.plot is not None and not parsed.plot.parent.is_dir():
        raise UsageError(f"--plot {parsed.plot}: there is no folder {parsed.plot.parent}")
    call, options = load(parsed)
    sets = [options, *(option_set(text) for text in parsed.also)]
    inputs = call.args if not call.kwargs else call.kwargs
    if call.args and call.kwargs:
        raise UsageError("bench takes inputs that are all positional, or all named")
    found = pitome_fx.benchmark(call.model, inputs, sets, rounds=parsed.rounds, cold=parsed.cold)
    print(found.to_json(indent=2) if parsed.json else found)
    if parsed.plot is not None:
        found.save_plot(parsed.plot)


def compare(parsed: argparse.Namespace) -> None:
    """Print how far merging moves the outputs on some data."""
    inputs = models.data(parsed.data)
    call, options = load(parsed)
    with _runs_on(parsed.data):
        found = pitome_fx.compare(call.model, inputs, options, labelled=parsed.labelled)
    print(found.to_json(indent=2) if parsed.json else found)


def calibrate(parsed: argparse.Namespace) -> None:
    """Print or write the options that meet a budget with the least change."""
    inputs = models.data(parsed.data)
    call, options = load(parsed)
    with _runs_on(parsed.data):
        budget = {"flops": parsed.keep, "speedup": parsed.faster}
        found = pitome_fx.calibrate(call.model, inputs, **budget, **options)
    if parsed.output is None:
        print(found.to_json())
    else:
        parsed.output.write_text(found.to_json() + "\n")
        print(f"written  {parsed.output}")


@contextlib.contextmanager
def _runs_on(data: str) -> Iterator[None]:
    """What is not our own error is that of a model on data that are not its inputs."""
    try:
        yield
    except PitomeError:
        raise
    except Exception as error:
        raise UsageError(f"the model does not run on {data}: {deploy.reason(error)}") from error


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "explain": explain,
    "bench": bench,
    "compare": compare,
    "calibrate": calibrate,
    "export": export,
}

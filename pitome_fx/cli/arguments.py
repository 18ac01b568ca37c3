"""What the command line takes."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pitome_fx
from pitome_fx import deploy
from pitome_fx.options import AMOUNTS, DEFAULT_FLOPS, Options

OF_LOWERING = ("lowering", "lowering_options", "regions")
"""Options of torch.compile alone."""

EPILOG = """\
how a model is named:
  module:callable  called without arguments (but for --set); returns a model, (model, args) or
                   (model, args, kwargs). The current folder is on the Python path.
  timm:NAME        timm.create_model(NAME)
  hf:CONFIG        of transformers: a model class (BertForSequenceClassification), a model type
                   (bert), or the path of a config.json or of its folder; returns plain tuples
Models of timm and transformers have random weights unless --weights gives a state dict: nothing is
downloaded, but for --set pretrained=True with timm. Every model is run in eval mode.

examples:
  python -m pitome_fx explain timm:vit_small_patch16_224 --ratio 0.9 --html report.html
  python -m pitome_fx explain hf:bert --set num_hidden_layers=4 --input input_ids=2x64:int64 --json
  python -m pitome_fx bench timm:vit_base_patch16_224 --input 4x3x224x224 --speedup 1.5
  python -m pitome_fx compare mine.models:classifier --data labelled.pt --flops 0.7
  python -m pitome_fx export mine.models:classifier --to onnx -o classifier.onnx --flops 0.7
  python -m pitome_fx calibrate mine.models:classifier --data images.pt --keep 0.6 -o options.json
  python -m pitome_fx explain mine.models:classifier --options options.json
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m pitome_fx",
        description="Transformers on merged tokens: see what merges, write it for another runtime.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=pitome_fx.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _explain(commands)
    _bench(commands)
    _compare(commands)
    _calibrate(commands)
    _export(commands)
    return parser


def _explain(commands: Any) -> None:
    command = _add_command(commands, "explain", "print what merges, what does not, and why")
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    page = "write the report to a page as well, with the graphs before and after"
    command.add_argument("--html", type=Path, metavar="FILE", help=page)
    _add_options(command, without=(*OF_LOWERING, "form", "strict"))


def _bench(commands: Any) -> None:
    about = "time the dense and the merged model side by side: speed-up, memory, compile time"
    command = _add_command(commands, "bench", about)
    command.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=VALUE[,NAME=VALUE]",
        help="another set of options to time beside it, as ratio=0.9,algorithm=tome; repeatable",
    )
    command.add_argument("--rounds", type=int, default=20, help="of timing (default: 20)")
    command.add_argument("--cold", action="store_true", help="compile with empty caches")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.add_argument("--plot", type=Path, metavar="FILE", help="write a picture, such as a PNG")
    _add_options(command, without=("form", "strict"))


def _compare(commands: Any) -> None:
    about = "run the dense and the merged model on your own data, and say how their outputs differ"
    command = _add_command(commands, "compare", about)
    _add_data(command, "; elements may be pairs (inputs, labels)")
    command.add_argument(
        "--labelled",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the data are pairs with labels (default: where they look like it)",
    )
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_options(command, without=(*OF_LOWERING, "form", "strict"))


def _calibrate(commands: Any) -> None:
    about = "find on your own inputs how much to merge where, without labels"
    command = _add_command(commands, "calibrate", about)
    _add_data(command, ", a few dozen items")
    budget = command.add_mutually_exclusive_group()
    budget.add_argument(
        "--keep",
        type=float,
        metavar="FLOPS",
        help=f"fraction of the model's FLOPs to keep, in (0, 1] (default: {DEFAULT_FLOPS})",
    )
    budget.add_argument(
        "--faster",
        type=float,
        metavar="SPEEDUP",
        help="how many times faster than dense on this device instead, at least 1",
    )
    command.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="JSON (default: printed)"
    )
    _add_options(command, without=(*AMOUNTS, "blocks", *OF_LOWERING, "form"))


def _export(commands: Any) -> None:
    about = "write the model on merged tokens to a file that needs no pitome_fx to run"
    command = _add_command(commands, "export", about)
    titles = ", ".join(f"{name}: {format.title}" for name, format in deploy.FORMATS.items())
    command.add_argument("--to", required=True, choices=deploy.FORMATS, help=titles)
    names = f"{deploy.endings()} (default: MODEL's name)"
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help=names)
    command.add_argument(
        "--dynamic-batch",
        action="store_true",
        help="any number of items: the first dimension of every input (else that of the inputs)",
    )
    command.add_argument("--no-check", action="store_true", help="do not run the file once written")
    _add_options(command, without=(*OF_LOWERING, "form"))


def _add_data(command: argparse.ArgumentParser, more: str) -> None:
    command.add_argument(
        "--data",
        required=True,
        metavar="DATA",
        help="inputs to look at: a file that torch.save wrote, or module:callable; a tensor, the "
        f"arguments of a call, or several such{more}",
    )


def _add_command(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    """A command and the arguments that all of them take."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("model", metavar="MODEL", help="its name; see below")
    command.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]SHAPE[:DTYPE]",
        help="an input of the model: normal deviates in its dtype, ones where DTYPE is integer "
        "or bool; once for each input (default: the model's own, a batch of one)",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the callable or of timm.create_model, a field of the configuration",
    )
    command.add_argument("--weights", type=Path, metavar="FILE", help="a state dict to load")
    command.add_argument(
        "--traceback", action="store_true", help="show where in the code an error comes from"
    )
    return command


def _add_options(command: argparse.ArgumentParser, without: Sequence[str]) -> None:
    """The fields of ``Options`` as arguments, with the help that its docstring gives them."""
    group = command.add_argument_group(
        "options of pitome",
        "Lists are written 0.9,0.8,0.7, an algorithm's parameters margin=0.8,alpha=1. "
        f"Give at most one amount: {', '.join(AMOUNTS)}; with none of them, flops={DEFAULT_FLOPS}.",
    )
    group.add_argument(
        "--options",
        type=Path,
        metavar="FILE",
        help="options as JSON, such as calibrate writes; what else is given wins",
    )
    help_texts = _field_docs()
    for field in dataclasses.fields(Options):
        if field.name in without:
            continue
        flag = "--" + field.name.replace("_", "-")
        # Only what is given is passed on: the defaults are those of Options.
        known_default = field.default not in (None, dataclasses.MISSING)
        default = f" Default: {field.default}." if known_default else ""
        text = help_texts[field.name] + default
        known: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text}
        if isinstance(field.default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **known)
        else:
            group.add_argument(flag, metavar="VALUE", **known)


def _field_docs() -> dict[str, str]:
    """The ``Attributes`` of the docstring of Options, ready for argparse."""
    doc = inspect.getdoc(Options) or ""
    found = dict(re.findall(r"^    (\w+): (.*(?:\n     .*)*)", doc, re.MULTILINE))
    return {
        field.name: found.get(field.name, "").replace("``", "").replace("%", "%%")
        for field in dataclasses.fields(Options)
    }

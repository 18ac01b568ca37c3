"""The text of a Python file that builds a graph again, compiles it alike, and so fails alike.

It holds shapes and the code of the graph, and none of the user's weights or inputs.
"""

from __future__ import annotations

import ast
import dataclasses
import platform
from collections.abc import Mapping
from typing import Literal

import torch
from torch._dynamo.debug_utils import generate_config_string

import pitome_fx
from pitome_fx.backends.lowering import Job
from pitome_fx.backends.plugins import imports_of
from pitome_fx.backends.rebuilding import (
    NotWrittenError,
    any_symbolic,
    source_of_inputs,
    sources_of,
    with_sizes_of_inputs,
)

VARIABLE = "PITOME_FX_REPRODUCERS"
"""Names the folder of such files; ``off`` for none."""

Failure = Literal["pass", "lowering", "first_run", "regions"]

HEADER = """\
# {said}
#
# This file builds that graph again and compiles it with the same options, so that the same error
# is raised. It has the shapes of the weights and inputs, and none of their values: these are
# random, and zero where they are integers. An error that depends on values may not show.
#
# pitome_fx {own}, torch {torch}, Python {python}
"""

BODY = """\
import os
import sys
import warnings
from math import inf, nan

os.environ["{variable}"] = "off"
os.environ.pop("PITOME_FX", None)

import torch
from torch import device, tensor
from torch._dynamo.debug_utils import InputReader

import pitome_fx
{imports}
{config}
{classes}

{inputs}

OPTIONS = {options}


def main():
{settings}    args = inputs()
    model = torch.compile(Repro(), backend="pitome", options=OPTIONS, dynamic={dynamic})
    with {contexts}:
        model(*args)


if __name__ == "__main__":
    main()
    print("Nothing failed: the error may depend on the values of weights or inputs.")
"""


def source(failure: Failure, job: Job, said: str) -> str:
    """The text of the file.

    Raises:
        NotWrittenError: the graph, or what it needs, cannot be written out.
    """
    graph, kept = with_sizes_of_inputs(job.graph, job.example_inputs)
    header = HEADER.format(
        said="\n# ".join(said.splitlines()),
        own=pitome_fx.__version__,
        torch=torch.__version__,
        python=platform.python_version(),
    )
    body = BODY.format(
        variable=VARIABLE,
        imports="\n".join(imports_of(job.graph, job.options)),
        config=generate_config_string(),
        classes="\n\n".join(sources_of(graph, "Repro")),
        inputs=source_of_inputs(job.graph, job.example_inputs, kept),
        options=_options(job),
        settings="".join(f"    {line}\n" for line in _settings(failure)),
        dynamic=any_symbolic(job.graph, job.example_inputs) or None,
        contexts=", ".join(_contexts()),
    )
    return header + body


def _options(job: Job) -> str:
    """All that differ from the defaults; strict, so that the error itself is raised."""
    # torch.compile takes no mode beside options.
    mode = {} if job.mode is None else {"mode": job.mode}
    options = dataclasses.replace(
        job.options, strict=True, lowering_options={**mode, **job.options.lowering_options}
    )
    given = {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in options.changed().items()
    }
    text = repr(given)
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise NotWrittenError(f"its options cannot be written out: {text}") from None
    return text


def _settings(failure: Failure) -> list[str]:
    """Lines that set what no context does."""
    lines = []
    if torch.get_default_dtype() != torch.float32:
        lines.append(f"torch.set_default_dtype({torch.get_default_dtype()})")
    if failure == "regions":
        lines.append("warnings.filterwarnings('error', 'pitome: regions', pitome_fx.PitomeWarning)")
    return lines


def _contexts() -> list[str]:
    """What the program is compiled and run under."""
    found = [f"torch.set_grad_enabled({torch.is_grad_enabled()})"]
    if torch.is_inference_mode_enabled():
        found.append("torch.inference_mode()")
    for kind in ("cpu", "cuda"):
        if torch.is_autocast_enabled(kind):
            found.append(f"torch.autocast({kind!r}, {torch.get_autocast_dtype(kind)})")
    return found

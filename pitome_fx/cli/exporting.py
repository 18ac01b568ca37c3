"""export: write a merged model to a file, and run it beside the graph it came from."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.export import Dim, ExportedProgram, ShapesCollection

import pitome_fx
from pitome_fx import deploy
from pitome_fx.cli import models
from pitome_fx.cli.loading import load
from pitome_fx.cli.shapes import describe
from pitome_fx.errors import DeployError, PitomeWarning, UsageError
from pitome_fx.frontends.transform import spelled_out_layers
from pitome_fx.progress import saying
from pitome_fx.switch import why_off

ROUNDING = 1e-4
"""Largest difference, relative to the largest output, that float32 sums in another order make."""
HALF_ROUNDING = 16
"""The same in half types, in units of eps: some 1000 roundings by eps/2, adding up at random."""


def export(parsed: argparse.Namespace) -> None:
    """Write the file, run it beside the graph it was made of, and say how to load it."""
    path = parsed.output or _default_path(parsed.model, parsed.to)
    deploy.check(path, parsed.to)
    call, options = load(parsed, batch=2 if parsed.dynamic_batch else 1)
    with saying() as say:
        say("merging")
        program = pitome_fx.transform(_traced(call, parsed.dynamic_batch), **options)
        say(f"writing {path}")
        files = deploy.save(program, path, parsed.to)
    merges = sum(node.target == torch.ops.pitome.match.default for node in program.graph.nodes)
    title = deploy.FORMATS[parsed.to].title
    for file in files:
        print(f"written  {file} ({title}), {file.stat().st_size / 1e6:.2f} MB")
    off = f": {why}" if (why := why_off()) else ""
    print(f"merged   {merges} {'block' if merges == 1 else 'blocks'}{off}")
    if not parsed.no_check:
        print(f"checked  {_compare(program, call, path, parsed.to)}")
        if parsed.dynamic_batch:
            again = _compare(program, _one_item_more(call), path, parsed.to)
            print(f"checked  with one item more {again}")
    batch = ", any number of items" if parsed.dynamic_batch else ""
    print(f"inputs   {describe(call.args, call.kwargs)}{batch}")
    print(f"load     {_usage(program, call, path, parsed.to)}")


def _default_path(model: str, to: str) -> Path:
    """Named after the last part of the model's name, in the current folder."""
    stem = re.split(r"[:/.]", model.removesuffix("/config.json").removesuffix(".json"))[-1]
    suffix = deploy.FORMATS[to].suffix
    # Two formats end alike: their files get names of their own.
    return Path((stem or "model") + (suffix if suffix == f".{to}" else f".{to}{suffix}"))


def _traced(call: models.Call, dynamic_batch: bool) -> ExportedProgram:
    """The dense model as torch.export sees it."""
    shapes: Any = _any_batch(call) if dynamic_batch else None
    try:
        with spelled_out_layers():
            return torch.export.export(
                call.model, call.args, dict(call.kwargs), dynamic_shapes=shapes, strict=False
            )
    except Exception as error:
        fixed = re.search(r"specialized it to be a constant \((\d+)\)", str(error))
        if dynamic_batch and fixed:
            raise DeployError(
                f"the model's code fixes the batch at {fixed[1]}: "
                "export it without --dynamic-batch, in the batch size it is to run in"
            ) from error
        raise DeployError(f"torch.export cannot trace the model: {deploy.reason(error)}") from error


def _any_batch(call: models.Call) -> ShapesCollection:
    """The first dimension of every input is one and the same symbol."""
    tensors = _tensors((call.args, dict(call.kwargs)))
    sizes = {tensor.shape[:1] for tensor in tensors}
    if len(sizes) != 1 or tensors[0].dim() == 0 or tensors[0].shape[0] < 2:
        raise UsageError(
            "--dynamic-batch needs inputs whose first dimension is one batch of 2 items or more; "
            f"these are {describe(call.args, call.kwargs)}"
        )
    shapes = ShapesCollection()
    for tensor in tensors:
        shapes[tensor] = {0: Dim("batch")}
    return shapes


def _one_item_more(call: models.Call) -> models.Call:
    """The inputs of a dynamic batch in another size."""
    args, kwargs = pytree.tree_map_only(
        Tensor, lambda x: torch.cat([x, x[:1]]), (tuple(call.args), dict(call.kwargs))
    )
    return dataclasses.replace(call, args=args, kwargs=kwargs)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _compare(program: ExportedProgram, call: models.Call, path: Path, to: str) -> str:
    """Run the file and the graph on the same inputs; warn of more than rounding between them."""
    missing = deploy.missing_packages(deploy.FORMATS[to].runs_with)
    if missing:
        return f"not: running it needs {' and '.join(missing)}"
    with torch.no_grad():
        wanted = _tensors(program.module()(*call.args, **call.kwargs))
    given = _tensors((call.args, dict(call.kwargs)))
    if to == "onnx" and any(x.dtype is torch.bfloat16 for x in (*given, *wanted)):
        return "not: NumPy, which hands ONNX Runtime its tensors, has no bfloat16"
    try:
        with torch.no_grad():
            found = _tensors(deploy.FORMATS[to].load(path)(*call.args, **call.kwargs))
    except Exception as error:
        raise DeployError(f"{path} was written but does not run: {deploy.reason(error)}") from error
    shapes = [[tuple(x.shape) for x in outputs] for outputs in (found, wanted)]
    if shapes[0] != shapes[1]:
        raise DeployError(
            f"{path} returns tensors of shapes {shapes[0]}, the same graph in PyTorch {shapes[1]}"
        )
    differences = [_difference(a, b) for a, b in zip(found, wanted, strict=True)]
    worst = next((d for d in differences if math.isnan(d)), max(differences, default=0.0))
    if not all(d <= _rounding(x.dtype) for d, x in zip(differences, wanted, strict=True)):
        warnings.warn(
            f"{path} differs from the same graph in PyTorch by {worst:.1e} of the largest output, "
            "more than rounding: another engine may decide a near-tie between tokens the other "
            "way, so compare the two on your own data",
            PitomeWarning,
            stacklevel=2,
        )
    return f"runs; differs from the same graph in PyTorch by {worst:.1e} of the largest output"


def _rounding(dtype: torch.dtype) -> float:
    half = dtype in (torch.float16, torch.bfloat16)
    return HALF_ROUNDING * torch.finfo(dtype).eps if half else ROUNDING


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Largest distance over the largest value; values that are not finite must be the same."""
    wide = torch.complex128 if wanted.is_complex() else torch.float64
    found, wanted = found.to(wide), wanted.to(wide)
    if wanted.numel() == 0 or torch.equal(found, wanted):
        return 0.0
    distance = torch.where(found == wanted, 0, (found - wanted).abs())
    return float(distance.max() / wanted.abs().max().clamp_min(torch.finfo(torch.float32).tiny))


def _usage(program: ExportedProgram, call: models.Call, path: Path, to: str) -> str:
    """A line of Python that loads and calls the file."""
    leaves = pytree.tree_leaves((call.args, dict(call.kwargs)))
    names = program.graph_signature.user_inputs
    named = [name for name, leaf in zip(names, leaves, strict=True) if isinstance(leaf, Tensor)]
    if to == "onnx":
        inputs = ", ".join(f'"{name}": {name}' for name in named)
    elif len(leaves) == len(call.args) + len(call.kwargs):
        given = [str(name) for name in names[: len(call.args)]]
        inputs = ", ".join([*given, *(f"{key}={key}" for key in call.kwargs)])
    else:
        inputs = "*args, **kwargs"
    imports = [] if to == "onnx" else deploy.imports_of(program)
    first = f"import {', '.join(imports)}; " if imports else ""
    return first + deploy.usage(path, to, inputs)

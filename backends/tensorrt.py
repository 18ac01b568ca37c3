"""TensorRT through Torch-TensorRT, which is imported only here and only when asked for.

Two of its defaults would be silent errors and are never used. ``attn_bias_is_causal=True``
replaces an additive attention bias by causal attention, and with it the log-size term of merged
keys. A failed build would hand back the original graph.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule

from pitome_fx.backends.lowering import Compiled, Job, Lowering, register_lowering
from pitome_fx.deploy import sorts_stably
from pitome_fx.errors import LoweringError, OptionsError
from pitome_fx.ops import is_pitome_op
from pitome_fx.options import Options

MAX_SORTED = 3840
"""Elements that TensorRT's TopK takes."""

ALWAYS = {"attn_bias_is_causal": False, "pass_through_build_failures": True}
INSTALL = "pip install 'pitome-fx[tensorrt]' on a machine with an NVIDIA GPU"


def load() -> Any:
    """The package torch_tensorrt.

    Raises:
        OptionsError: there is no CUDA GPU, or the package or its libraries are missing.
    """
    if not torch.cuda.is_available():
        raise OptionsError(
            "lowering='tensorrt' needs a CUDA GPU, and torch sees none here: run on a machine with "
            "one, or name another lowering"
        )
    try:
        return importlib.import_module("torch_tensorrt")
    except Exception as error:
        # Where its libraries are missing, the package raises a bare Exception.
        raise OptionsError(
            f"lowering='tensorrt' cannot import torch_tensorrt ({error}): {INSTALL}"
        ) from error


def check(options: Options) -> None:
    """There must be a GPU, and the package."""
    load()


def compile_job(job: Job) -> Compiled:
    """A dense graph, or a merged one in portable form; options are those of Torch-TensorRT.

    Raises:
        OptionsError: TensorRT is not available, or a setting contradicts what is always set.
        LoweringError: TensorRT cannot sort that many tokens, or an unknown number of them.
    """
    settings = _settings(job.settings)
    load()
    check_sorts(job.graph)
    backend: Compiled = torch._dynamo.lookup_backend("torch_tensorrt")
    return backend(job.graph, list(job.example_inputs), options=settings)


def compile_exported(program: ExportedProgram, **settings: Any) -> Any:
    """Build engines from what ``pitome_fx.transform(exported, form="portable", …)`` returns.

    Args:
        program: an ExportedProgram with example inputs, transformed or dense.
        settings: those of ``torch_tensorrt.dynamo.compile``; ``arg_inputs`` and ``kwarg_inputs``
            are the program's example inputs unless given.

    Returns:
        What ``torch_tensorrt.dynamo.compile`` returns, a GraphModule with engines in it.

    Raises:
        OptionsError: TensorRT is not available, a setting contradicts what is always set, or the
            program still contains pitome ops, or what they are in ATen.
        LoweringError: TensorRT cannot sort that many tokens, or an unknown number of them.
    """
    settings = _settings(settings)
    package = load()
    if any(is_pitome_op(node.target) for node in program.graph.nodes):
        raise OptionsError(
            "TensorRT does not know the pitome ops of this program: "
            "transform it with form='portable'"
        )
    if sorts_stably(program.graph_module):
        raise OptionsError(
            "TensorRT has no stable sort, which this program takes: transform it with "
            "form='portable'"
        )
    check_sorts(program.graph_module)
    if "inputs" not in settings and program.example_inputs is not None:
        args, kwargs = program.example_inputs
        settings = {"arg_inputs": args, "kwarg_inputs": kwargs, **settings}
    return package.dynamo.compile(program, **settings)


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in ALWAYS.items():
        if given.get(key, value) != value:
            raise OptionsError(
                f"{key}={given[key]!r} is not allowed: Torch-TensorRT would then leave out token "
                f"merging, or its log-size term, without a word; {key} is always {value}"
            )
    return {**given, **ALWAYS}


def check_sorts(graph: GraphModule) -> None:
    """TensorRT orders at most 3840 tokens, and their number must be known when it compiles."""
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.topk.default):
        count: Any = node.args[1]
        if not isinstance(count, int):
            raise LoweringError(
                "TensorRT orders tokens only where their number is static: compile with "
                "dynamic=False, or export with a dynamic batch size alone"
            )
        if count > MAX_SORTED:
            raise LoweringError(
                f"TensorRT orders at most {MAX_SORTED} tokens and a block of this model has "
                f"{count}: let it merge in later blocks only (blocks=), or shorten its input"
            )


register_lowering(
    Lowering(
        ("tensorrt", "torch_tensorrt", "aot_torch_tensorrt_aten"),
        check,
        compile_job,
        form="portable",
    )
)

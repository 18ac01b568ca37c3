"""OpenVINO's own Dynamo backend, as ``lowering="openvino"``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._dynamo.exc import InvalidBackend

from pitome_fx.backends.lowering import Compiled, Job, Lowering, register_lowering
from pitome_fx.backends.registered import importing, look_up, refuse_options
from pitome_fx.errors import LoweringError, OptionsError
from pitome_fx.options import Options
from pitome_fx.passes.capture.guards import is_symbolic


def check(options: Options) -> None:
    """The package must be there."""
    refuse_options(options, _backend())


def compile_job(job: Job) -> Compiled:
    """A dense graph, or a merged one in portable form.

    Options are those of the backend, such as ``{"config": {"INFERENCE_PRECISION_HINT": "f32"}}``.

    Raises:
        LoweringError: OpenVINO could not take the merged graph, or one of its sizes is symbolic.
        OptionsError: an option would hide whether it could.
    """
    with importing("openvino"):
        return _with_own_outputs(_compiled(job, _backend()))


def _compiled(job: Job, backend: Compiled) -> Compiled:
    graph, example_inputs, options, merged = job.graph, job.example_inputs, job.settings, job.merged
    settings = {"options": dict(options)} if options else {}
    if merged and any(is_symbolic(value) for value in example_inputs):
        raise LoweringError(
            "OpenVINO takes no dynamic sizes from torch.compile and would run the graph in eager, "
            "silently: compile with dynamic=False, or export the model to ONNX and convert that"
        )
    if options.get("aot_autograd"):
        if merged:
            raise OptionsError(
                "lowering_options aot_autograd is not allowed: whether OpenVINO runs the graph, "
                "or hands it to eager in silence, could then not be told"
            )
        return backend(graph, list(example_inputs), **settings)
    # OpenVINO traces the graph again. In Dynamo's own tracing context a convolution then leaves
    # symbols behind for which Dynamo can write no guard (OpenVINO 2026.4 on torch 2.13).
    with torch._guards.tracing(None):
        compiled = backend(graph, list(example_inputs), **settings)
    if merged and not getattr(compiled, "__qualname__", "").startswith("fx_openvino"):
        raise LoweringError(
            "OpenVINO could not convert the graph and would run it in Inductor, silently: use "
            "lowering='inductor', or export the model to ONNX and convert that"
        )
    return compiled


def _backend() -> Compiled:
    """What OpenVINO has registered."""
    try:
        return look_up("openvino")
    except OptionsError as error:
        if isinstance(error.__cause__, InvalidBackend):
            raise OptionsError(
                "lowering='openvino' needs the package openvino: pip install 'pitome-fx[openvino]'"
            ) from error.__cause__
        raise


def _with_own_outputs(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """OpenVINO returns views of buffers of its own, which the next call writes again."""

    def run(*args: Any) -> Any:
        return pytree.tree_map_only(Tensor, Tensor.clone, compiled(*args))

    return run


register_lowering(Lowering(("openvino",), check, compile_job, form="portable"))

"""What Torch-TensorRT makes of merged models, found out without a GPU and without TensorRT.

Its decompositions, lowering passes, converter registry with validators and partitioner are Python
and run as they are; the library ``tensorrt`` is a stand-in, and four queries about the GPU are
answered. This tells which nodes have a converter and how many engines there would be. It builds no
engine, so it says nothing about numbers. To be run in a process of its own: prints one JSON object.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import json
import os
import sys
import types
from typing import Any
from unittest.mock import patch

import torch

from tests.support.torchvision_shim import define_missing_ops

RUNS: list[tuple[str, dict[str, Any]]] = [
    ("vit", {}),
    ("deit", {}),
    ("dinov2-lift", {}),
    ("bert", {}),
    ("bert", {"algorithm": "pitome-text", "blocks": [0]}),
]
"""Models and options to try."""


class _Names(type):
    """A class of which every attribute exists, and is such a class again."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(cls, name, _Names(name, (), {}))
        return getattr(cls, name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return object.__new__(cls)


def install_stand_in() -> None:
    """Put a module ``tensorrt`` in place whose every name is a class."""
    stand_in = types.ModuleType("tensorrt")

    def attribute(name: str) -> Any:
        if name.startswith("__") or name == "tensorrt_rtx":
            raise AttributeError(name)
        setattr(stand_in, name, _Names(name, (), {}))
        return getattr(stand_in, name)

    vars(stand_in).update(
        __getattr__=attribute,
        __spec__=importlib.machinery.ModuleSpec("tensorrt", None, is_package=True),
        __path__=[],
        __file__="tensorrt",
        __version__="11.0.0",
        tensorrt=stand_in,
    )
    sys.modules["tensorrt"] = sys.modules["tensorrt.tensorrt"] = stand_in


def load() -> Any:
    """torch_tensorrt without its compiled parts, which need the CUDA libraries."""
    install_stand_in()
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    torch.cuda.mem_get_info = lambda device=None: (1 << 34, 1 << 34)
    torch.cuda.empty_cache = lambda: None
    if not hasattr(torch._C, "_CudaDeviceProperties"):
        torch._C._CudaDeviceProperties = object  # named in an annotation
    is_file = os.path.isfile
    with patch("os.path.isfile", lambda path: "libtorchtrt" not in str(path) and is_file(path)):
        return importlib.import_module("torch_tensorrt")


def dry_runs() -> dict[str, Any]:
    """Model (and route) → nodes, convertible nodes, engines, what would stay in PyTorch."""
    import pitome_fx
    from pitome_fx.backends import tensorrt
    from tests.support.models import bert, timm_vit

    package = load()
    tensorrt.load = lambda: package
    compiler: Any = importlib.import_module("torch_tensorrt.dynamo._compiler")
    settings = {"dryrun": True, "min_block_size": 1}
    seen: list[Any] = []
    compiler.dryrun_stats_display = lambda tracker, enabled: seen.append(tracker)
    # What stays in PyTorch would be moved to the GPU.
    compiler.to_torch_device = lambda device: torch.device("cpu")

    def last() -> dict[str, Any]:
        tracker = seen[-1]
        return {
            "nodes": tracker.total_ops_in_graph,
            "convertible": tracker.supported_ops_in_graph,
            "engines": tracker.tensorrt_graph_count,
            "in_torch": tracker.to_run_in_torch,
            "causal": tracker.compilation_settings.attn_bias_is_causal,
            "silent": not tracker.compilation_settings.pass_through_build_failures,
        }

    found: dict[str, Any] = {}
    models: dict[str, Any] = {
        "vit": lambda: timm_vit(depth=2),
        "deit": lambda: timm_vit("deit_tiny_distilled_patch16_224", depth=2),
        # It returns all its tokens, so that they are unmerged at the end.
        "dinov2-lift": lambda: timm_vit(
            "vit_small_patch14_reg4_dinov2", depth=2, num_classes=0, global_pool=""
        ),
        "bert": bert,
    }
    for name, options in RUNS:
        case = models[name]()
        program = torch.export.export(case.model, case.args, dict(case.kwargs))
        merged = pitome_fx.transform(program, ratio=0.8, strict=True, form="portable", **options)
        assert isinstance(merged, torch.export.ExportedProgram)
        tensorrt.compile_exported(merged, **settings)
        found[f"{name} {options.get('algorithm', '')}".strip()] = last()

    case = models["vit"]()
    chosen = {"ratio": 0.8, "strict": True, "lowering": "tensorrt", "lowering_options": settings}
    with torch.no_grad():
        torch.compile(case.model, backend="pitome", options=chosen)(*case.args)
    found["torch.compile"] = {**last(), "graphs": len(seen) - len(RUNS)}
    found["trap"] = {str(causal): bias_survives(causal) for causal in (True, False)}
    return found


def bias_survives(causal: bool) -> bool:
    """Is the attention bias of a merged graph still there after the pass with that setting?

    The pass knows the attention op that CUDA tensors are traced to.
    """
    name = "torch_tensorrt.dynamo.lowering.passes.force_causal_efficient_attention"
    run: Any = importlib.import_module(name).force_causal_efficient_attention
    settings = sys.modules["torch_tensorrt"].dynamo.CompilationSettings(attn_bias_is_causal=causal)
    graph = torch.fx.Graph()
    operands = [graph.placeholder(name) for name in ("q", "k", "v", "log_size")]
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention.default
    out = graph.call_function(efficient, (*operands, False))
    graph.output(graph.call_function(_first, (out,)))
    after = run(torch.fx.GraphModule({}, graph), settings)
    (node,) = after.graph.find_nodes(op="call_function", target=efficient)
    return node.args[3] is not None


def _first(values: Any) -> Any:
    return values[0]


if __name__ == "__main__":
    define_missing_ops()
    print(json.dumps(dry_runs()))

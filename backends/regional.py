"""Lowers a merged graph region by region; those that are alike are compiled once.

Compiled regions are kept for as long as the process lives, so that the same model at another ratio
or of another depth compiles only what it has of its own.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import RestartAnalysis, SkipFrame
from torch._guards import TracingContext, tracing
from torch.fx import GraphModule, Interpreter, Node

from pitome_fx.backends.caching import digest, of_a_region
from pitome_fx.backends.calls import Step, program
from pitome_fx.backends.lowering import Compiled, Job
from pitome_fx.errors import PitomeWarning, in_short
from pitome_fx.options import Options
from pitome_fx.passes.plan.flops import COUNTED
from pitome_fx.passes.regions.cutting import Cut, cut
from pitome_fx.passes.regions.structure import Region
from pitome_fx.passes.regions.symbolic import Shape, Symbolic, symbolic

logger = logging.getLogger(__name__)

CompileOne = Callable[[GraphModule, Sequence[Any], Options], Compiled]
"""Compiles a graph; the options are those that its caches are told."""

SECONDS_OF_A_CALL = 20e-6
SHARE_OF_CALLS = 0.05
"""What calls may take of the estimated time of a run; they were measured at 14 to 30 µs each."""

FLOPS_PER_SECOND = {"cpu": 80e9, "other": 100e12}
"""Of one core, and of an accelerator; rough, and on the high side."""

FEWEST_CALLS = 8


class NotAsTracedError(Exception):
    """A region yields something else than the graph's metadata says."""


@dataclass(frozen=True)
class Kind:
    """A compiled kind of region.

    Attributes:
        call: takes the symbols' values, then the inputs.
        trained: for each output, does it require gradients?
    """

    shape: Shape
    symbolic: Symbolic
    call: Compiled
    trained: tuple[bool, ...]

    def values_for(self, region: Region) -> tuple[int, ...] | None:
        """The symbols' values in a region, None where this is not its kind."""
        values = self.shape.values(region.ints)
        return values if values is not None and self.symbolic.holds_for(values) else None


KINDS: dict[Hashable, list[Kind]] = {}
"""All that this process has compiled, by what they depend on."""


def by_regions(job: Job, compile_one: CompileOne, why_whole: str | None) -> Compiled | None:
    """What runs the job's graph region by region; None where it is to be compiled as a whole.

    Args:
        why_whole: why the lowering has to see the whole graph, None if it need not.
    """
    found: Cut | str
    if why_whole is not None:
        found = why_whole
    else:
        found = cut(job.graph, job.example_inputs, _most_calls(job.graph))
    if isinstance(found, Cut):
        try:
            return _compile_all(job, found, compile_one)
        except (RestartAnalysis, SkipFrame):
            raise
        except Exception as error:
            # Whatever it is, it is no reason to lose more than the time.
            logger.debug("compiling by regions failed", exc_info=error)
            found = f"compiling a region failed ({in_short(error)})"
    logger.info("compiled as a whole: %s", found)
    if job.options.regions is True:
        warnings.warn(
            f"pitome: regions=True, but the graph is compiled as a whole: {found}.",
            PitomeWarning,
            stacklevel=5,
        )
    return None


def _most_calls(graph: GraphModule) -> int:
    """How many calls take a small share of a run."""
    values = (node.meta.get("val") for node in graph.graph.nodes)
    device = next((x.device.type for x in values if isinstance(x, Tensor)), "cpu")
    speed = FLOPS_PER_SECOND.get(device, FLOPS_PER_SECOND["other"])
    seconds = _rough_flops(graph) / (speed * (torch.get_num_threads() if device == "cpu" else 1))
    return max(FEWEST_CALLS, int(seconds * SHARE_OF_CALLS / SECONDS_OF_A_CALL))


def _rough_flops(graph: GraphModule) -> int:
    """Of its products, as if each summed over the last dimension of its first operand."""
    total = 0
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if node.target in COUNTED and isinstance(value, Tensor):
            total += 2 * value.numel() * node.all_input_nodes[0].meta["val"].shape[-1]
    return total


def _compile_all(job: Job, found: Cut, compile_one: CompileOne) -> Compiled:
    """Compile what no kind known fits, and put all regions in a row."""
    placeholders = job.graph.graph.find_nodes(op="placeholder")
    trained: dict[Node, bool] = {
        node: isinstance(x, Tensor) and x.requires_grad
        for node, x in zip(placeholders, job.example_inputs, strict=True)
    }
    options = of_a_region(job.options)
    setting = _setting(job, options)
    shapes = {key: Shape.of(own) for key, own in found.kinds.items()}
    steps: list[Step] = []
    compiled = 0
    for region in found.regions:
        flags = tuple(trained.get(node, False) for node in region.inputs)
        known = KINDS.setdefault((region.key, tuple(region.outputs), flags, setting), [])
        own = _known(known, region)
        if own is None:
            own = _compile(region, shapes[region.key], flags, compile_one, options)
            known.append(own[0])
            compiled += 1
        kind, counts = own
        outputs = (region.nodes[i] for i in region.outputs)
        trained.update(zip(outputs, kind.trained, strict=True))
        steps.append(Step(kind.call, counts, region))
    different = len({id(step.function) for step in steps})
    logger.info("%d regions of %d kinds, %d compiled now", len(steps), different, compiled)
    return program(job.graph, steps)


def _known(known: Sequence[Kind], region: Region) -> tuple[Kind, tuple[int, ...]] | None:
    for kind in known:
        counts = kind.values_for(region)
        if counts is not None:
            return kind, counts
    return None


def _compile(
    region: Region,
    shape: Shape,
    trained: Sequence[bool],
    compile_one: CompileOne,
    options: Options,
) -> tuple[Kind, tuple[int, ...]]:
    """Compile the kind of a region, as general as those that it was cut with."""
    traced = symbolic(region, shape, trained)
    counts = shape.values(region.ints)
    assert counts is not None
    # Nothing of this must reach the guards of the program that is being compiled.
    with tracing(TracingContext(traced.mode)):
        outputs = _trained_outputs(traced, region, counts)
        call = compile_one(traced.graph, traced.inputs, options)
    return Kind(shape, traced, call, outputs), counts


def _trained_outputs(traced: Symbolic, region: Region, counts: Sequence[int]) -> tuple[bool, ...]:
    """Which outputs require gradients; all must be laid out as the graph says."""
    with traced.mode:
        found = Interpreter(traced.graph).run(*traced.inputs)
    for i, value in zip(region.outputs, found, strict=True):
        wanted = region.nodes[i].meta["val"]
        if not isinstance(value, Tensor) or not isinstance(wanted, Tensor):
            raise NotAsTracedError(f"{region.nodes[i].name} is no tensor")
        own = [traced.at(n, counts) for n in (*value.shape, *value.stride())]
        if (value.dtype, own) != (wanted.dtype, [*wanted.shape, *wanted.stride()]):
            raise NotAsTracedError(f"{region.nodes[i].name} is laid out otherwise than traced")
    return tuple(value.requires_grad for value in found)


def _setting(job: Job, options: Options) -> Hashable:
    """All that a compile depends on beside its graph."""
    kinds = ("cpu", "cuda")
    return (
        digest(options),
        job.mode,
        repr(sorted(job.settings.items())),
        torch._inductor.config.get_hash(),
        torch._functorch.config.get_hash(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        tuple((torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in kinds),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.mkldnn.enabled,
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cuda.cudnn_sdp_enabled(),
    )

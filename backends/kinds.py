"""Kinds of regions: compiled once each, and kept for as long as the process lives.

So the same model at another ratio or of another depth compiles only what it has of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor
from torch._dynamo.exc import RestartAnalysis, SkipFrame
from torch._guards import TracingContext, tracing
from torch.fx import GraphModule, Interpreter, Node

from pitome_fx.backends.caching import digest, of_a_region
from pitome_fx.backends.calls import Step, program
from pitome_fx.backends.lowering import Compiled, Job
from pitome_fx.ops import OPS, is_pitome_op
from pitome_fx.options import Options
from pitome_fx.passes.observing import log_line
from pitome_fx.passes.regions.cutting import Cut
from pitome_fx.passes.regions.structure import Region
from pitome_fx.passes.regions.symbolic import Shape, Symbolic, symbolic

logger = logging.getLogger(__name__)

CompileOne = Callable[[GraphModule, Sequence[Any], Options], Compiled]
"""Compiles a graph; the options are those that its caches are told."""


class NotAsTracedError(Exception):
    """A region yields something else than the graph's metadata says."""


@dataclass(frozen=True)
class Kind:
    """A compiled kind of region.

    Attributes:
        call: takes the symbols' values, then the inputs.
        outputs: fake values of its results.
        misread: positions of outputs that are laid out otherwise than the graph's metadata says.
    """

    shape: Shape
    symbolic: Symbolic
    call: Compiled
    outputs: tuple[Tensor, ...]
    misread: tuple[int, ...]

    def values_for(self, region: Region) -> tuple[int, ...] | None:
        """The symbols' values in a region, None where this is not its kind."""
        values = self.shape.values(region.ints)
        return values if values is not None and self.symbolic.holds_for(values) else None

    @property
    def trained(self) -> list[bool]:
        """For each output, does it require gradients?"""
        return [x.requires_grad for x in self.outputs]

    @property
    def varying(self) -> list[tuple[bool, ...]]:
        """For each output, which of its dimensions are of lengths that follow from the symbols?"""
        return [tuple(not isinstance(n, int) for n in x.shape) for x in self.outputs]


Fitting = tuple[Kind, tuple[int, ...]]
"""A kind that a region is of, and the symbols' values in it."""

CompileGraph = Callable[[GraphModule, Sequence[Any]], Compiled]

_BACKWARD_AT_ONCE = {"force_non_lazy_backward_lowering": True}
"""What the backward pass assumes of lengths must be known before a kind is used for others."""

KINDS: dict[Hashable, list[Kind]] = {}
"""All that this process has compiled, by what they depend on."""


@contextmanager
def forgetting_kinds() -> Iterator[None]:
    """Compile as a new process does; what was known before is known again afterwards."""
    known = dict(KINDS)
    KINDS.clear()
    try:
        yield
    finally:
        KINDS.update({**KINDS, **known})


def compile_all(job: Job, cut: Cut, compile_one: CompileOne) -> Compiled:
    """Compile what no kind known fits, and put all regions in a row.

    Raises:
        NotAsTracedError: a region yields something else than the graph's metadata says.
    """
    start = time.perf_counter()
    options = of_a_region(job.options)

    def compile_graph(graph: GraphModule, inputs: Sequence[Any]) -> Compiled:
        return compile_one(graph, inputs, options)

    found = _Found(job, _setting(job, options), compile_graph)
    steps: list[Step] = []
    for i in range(len(cut.regions)):
        region = cut.regions[i]
        known = found.known(region)
        fitting = _fitting(known, region)
        if fitting is None:
            fitting = _compile_for_all(region, cut, found)
            known.append(fitting[0])
            found.compiled += 1
        kind, counts = fitting
        if kind.misread and found.is_news(kind):
            _correct(kind, (r for r in cut.regions if r.key == region.key))
            cut.read_again(i + 1)
        found.note(region, kind)
        steps.append(Step(kind.call, counts, region))
    different = len({id(step.function) for step in steps})
    text = f"{len(steps)} regions of {different} kinds, {found.compiled} compiled now"
    log_line("regions", time.perf_counter() - start, text)
    return program(job.graph, steps)


class _Found:
    """What is known of the values of one program, as its regions are gone through.

    Attributes:
        trained: does a value require gradients?
        varying: which of a value's dimensions are of lengths that follow from symbols?
        static: keys of regions whose ops take no symbols.
        compiled: kinds compiled for this program.
    """

    def __init__(self, job: Job, setting: Hashable, compile_graph: CompileGraph) -> None:
        placeholders = job.graph.graph.find_nodes(op="placeholder")
        self.setting = setting
        self.compile_graph = compile_graph
        self.trained: dict[Node, bool] = {
            node: isinstance(x, Tensor) and x.requires_grad
            for node, x in zip(placeholders, job.example_inputs, strict=True)
        }
        self.varying: dict[Node, tuple[bool, ...]] = {}
        self.static: set[Hashable] = set()
        self.compiled = 0
        self._corrected: set[int] = set()

    def is_news(self, kind: Kind) -> bool:
        """Is this the first region of the kind in the program?"""
        first = id(kind) not in self._corrected
        self._corrected.add(id(kind))
        return first

    def flags(self, region: Region) -> tuple[bool, ...]:
        """Which of its inputs require gradients."""
        return tuple(self.trained.get(node, False) for node in region.inputs)

    def known(self, region: Region) -> list[Kind]:
        """Kinds that differ from it in nothing but integers."""
        depends_on = (region.key, tuple(region.outputs), self.flags(region), self.setting)
        return KINDS.setdefault(depends_on, [])

    def shape_of(self, region: Region, cut: Cut) -> Shape:
        """As general as it can be: for all regions alike, and what earlier ones made vary."""
        if region.key in self.static:
            return Shape.of_one(region)
        vary = {
            position
            for (number, dim), position in region.sizes.items()
            if (own := self.varying.get(region.inputs[number])) is not None and own[dim]
        }
        return Shape.of(cut.kinds[region.key], vary)

    def note(self, region: Region, kind: Kind) -> None:
        """The region is of this kind."""
        outputs = [region.nodes[i] for i in region.outputs]
        self.trained.update(zip(outputs, kind.trained, strict=True))
        self.varying.update(zip(outputs, kind.varying, strict=True))


def _fitting(known: Sequence[Kind], region: Region) -> Fitting | None:
    for kind in known:
        counts = kind.values_for(region)
        if counts is not None:
            return kind, counts
    return None


def _compile_for_all(region: Region, cut: Cut, found: _Found) -> Fitting:
    """Compile the kind of a region, for all that are alike; for it alone if it takes no symbols."""
    shape, trained = found.shape_of(region, cut), found.flags(region)
    try:
        return _compile(region, shape, trained, found.compile_graph)
    except (RestartAnalysis, SkipFrame):
        raise
    except Exception as error:
        if not shape.lowest:
            raise
        logger.debug("%s takes no symbols", region.nodes[0].name, exc_info=error)
        found.static.add(region.key)
        return _compile(region, Shape.of_one(region), trained, found.compile_graph)


def _compile(
    region: Region, shape: Shape, trained: Sequence[bool], compile_graph: CompileGraph
) -> Fitting:
    """Compile the kind of a region, as general as its shape is."""
    traced = symbolic(region, shape, trained)
    counts = shape.values(region.ints)
    assert counts is not None
    # Nothing of this must reach the guards of the program that is being compiled.
    with tracing(TracingContext(traced.mode)):
        with traced.mode, _without_errors_of_fake_tensors():
            run = Interpreter if any(trained) else _Shapes
            outputs = run(traced.graph).run(*traced.inputs)
        misread = _misread(traced, outputs, region, counts)
        with torch._functorch.config.patch(_BACKWARD_AT_ONCE if shape.lowest else {}):
            call = compile_graph(traced.graph, traced.inputs)
    return Kind(shape, traced, call, tuple(outputs), misread), counts


class _Shapes(Interpreter):
    """Finds the shapes of a graph's results; of pitome ops without their bodies."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if is_pitome_op(target):
            return OPS[target._schema.name.removeprefix("pitome::")].shape(*args, **kwargs)
        return super().call_function(target, args, kwargs)


@contextmanager
def _without_errors_of_fake_tensors() -> Iterator[None]:
    """An op that takes no symbols is no error of the user's."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    was_disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was_disabled


def _misread(
    traced: Symbolic, outputs: Sequence[Any], region: Region, counts: Sequence[int]
) -> tuple[int, ...]:
    """Which outputs are laid out otherwise than the metadata says.

    Before dispatch some ops that do nothing (dropout in eval mode) are said to copy.
    """
    found = []
    for i, (place, value) in enumerate(zip(region.outputs, outputs, strict=True)):
        node = region.nodes[place]
        wanted = node.meta["val"]
        if not isinstance(value, Tensor) or not isinstance(wanted, Tensor):
            raise NotAsTracedError(f"{node.name} is no tensor")
        own = value.dtype, [traced.at(n, counts) for n in value.shape]
        if own != (wanted.dtype, list(wanted.shape)):
            raise NotAsTracedError(f"{node.name} is {own}, not as traced")
        if [traced.at(n, counts) for n in value.stride()] != list(wanted.stride()):
            found.append(i)
    return tuple(found)


def _correct(kind: Kind, regions: Iterator[Region]) -> None:
    """Have the graph's metadata say how the outputs of this kind are laid out."""
    for region in regions:
        counts = kind.values_for(region)
        if counts is None:
            continue
        for i in kind.misread:
            node = region.nodes[region.outputs[i]]
            strides = [kind.symbolic.at(n, counts) for n in kind.outputs[i].stride()]
            value = node.meta["val"]
            node.meta["val"] = value.new_empty_strided(value.shape, strides)


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

"""Capture: any traced program → one pre-dispatch ATen graph with metadata on every node."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

from pitome_fx.errors import CaptureError
from pitome_fx.passes.capture.breaks import UNBROKEN, Breaks, breaks_of
from pitome_fx.passes.capture.functional import functionalise_temporaries
from pitome_fx.passes.capture.fused_layer import encoder_layer
from pitome_fx.passes.capture.subclasses import (
    cannot_be_traced,
    inner_fake_mode,
    is_wrapper,
    note_call,
    stand_in,
    wrappers,
)
from pitome_fx.passes.capture.switches import switching
from pitome_fx.passes.failures import EXPECTED, failing_in

CHECKPOINT = torch.ops.higher_order.tag_activation_checkpoint
CHECKPOINTS_ARE_INLINED = (
    "activation checkpointing (torch.utils.checkpoint) saves no memory in this model while it "
    "merges: tokens merge inside the checkpointed regions, so that these are dissolved and their "
    "activations kept for backward. Merged blocks keep fewer of them; where that does not suffice, "
    "compile with ratio=1.0, which keeps every checkpoint"
)


class NothingToTraceError(CaptureError):
    """A graph of constants alone, as there is one between two graph breaks."""


@dataclass(frozen=True)
class Program:
    """A captured program.

    Attributes:
        graph: pre-dispatch ATen, one placeholder per flat input.
        inputs: what the placeholders stand for: fake tensors, ints and SymInts.
        given: the same, with tensor subclasses where plain fake tensors stand for them.
        parameters: placeholders that hold parameters, with their present values.
        constants: placeholders that hold parameters or buffers.
        fake_mode: the mode of all fake tensors.
        writes: mutations that could not be made functional, with the tensors they touch.
        recompiles: whoever runs it compiles anew for sizes that break a guard.
        breaks: where Dynamo broke the graph off.
        notes: what the user should know if something merges.
        literals: placeholders that hold tensors written out in the forward, with their values.
        merged_outputs: positions of the outputs that whoever runs it takes merged, where possible.
    """

    graph: GraphModule
    inputs: tuple[Any, ...]
    given: tuple[Any, ...]
    parameters: dict[Node, Tensor]
    constants: frozenset[Node]
    fake_mode: FakeTensorMode
    writes: tuple[Node, ...]
    recompiles: bool = False
    breaks: Breaks = UNBROKEN
    notes: tuple[str, ...] = ()
    literals: dict[Node, Tensor] = field(default_factory=dict)
    merged_outputs: frozenset[int] = frozenset()


def capture(
    source: GraphModule,
    inputs: Sequence[Any],
    parameters: Sequence[Tensor | None],
    buffers: Sequence[bool],
) -> Program:
    """Re-trace a graph on fake inputs.

    Args:
        source: a Dynamo, export or symbolic graph whose placeholders are ``inputs``.
        inputs: fake tensors (and ints, SymInts), one per placeholder.
        parameters: per placeholder the parameter it holds, None if it holds none.
        buffers: which of the placeholders hold a buffer.

    Raises:
        NothingToTraceError: no input is a tensor.
        CaptureError: a tensor subclass is used in a way that plain tensors know nothing of.
    """
    fake_mode = fake_mode_of(inputs)
    given, inputs = inputs, [stand_in(value, fake_mode) for value in inputs]
    graph = trace(_Flatten(source).run, inputs, fake_mode)
    writes = functionalise_temporaries(graph)
    # What nobody reads would be merged, and count, though it never runs.
    graph.graph.eliminate_dead_code()
    graph.recompile()
    placeholders = graph.graph.find_nodes(op="placeholder")
    held = {n: p for n, p in zip(placeholders, parameters, strict=True) if p is not None}
    static = {n for n, is_buffer in zip(placeholders, buffers, strict=True) if is_buffer}
    return Program(
        graph=graph,
        inputs=tuple(inputs),
        given=tuple(given),
        parameters=held,
        constants=frozenset(static | held.keys()),
        fake_mode=fake_mode,
        writes=writes,
        notes=(CHECKPOINTS_ARE_INLINED,) if _saves_memory(source) else (),
    )


def capture_dynamo(graph: GraphModule, example_inputs: Sequence[Any]) -> Program:
    """Capture what Dynamo hands a backend; its placeholders know their own fake tensors."""
    placeholders = graph.graph.find_nodes(op="placeholder")
    inputs = inputs_of_dynamo(graph, example_inputs)
    parameters = [
        value if holds_parameter(node, value) else None
        for node, value in zip(placeholders, example_inputs, strict=True)
    ]
    static = [holds_buffer(node) for node in placeholders]
    program = capture(graph, inputs, parameters, static)
    return replace(program, recompiles=True, breaks=breaks_of(graph))


def holds_parameter(placeholder: Node, value: Any) -> bool:
    """Is an input of a Dynamo graph a parameter, or as good as one?"""
    return isinstance(value, torch.nn.Parameter) or _is_kept_by_module(placeholder)


def holds_buffer(placeholder: Node) -> bool:
    """Is an input of a Dynamo graph a buffer of a module, or marked to stay where it is?"""
    return "_dynamo_static_input_type" in (placeholder.meta.get("tensor_dict") or {})


def _is_kept_by_module(placeholder: Node) -> bool:
    """Is it a tensor that a module computed from its parameters and keeps (LeViT's bias cache)?"""
    source: Any = getattr(placeholder, "_dynamo_source", None)
    if source is None or not isinstance(placeholder.meta.get("example_value"), Tensor):
        return False
    name = source.name() if callable(source.name) else source.name
    guard_source = source.guard_source() if callable(source.guard_source) else source.guard_source
    return guard_source.is_unspecialized_nn_module() and "_buffers" not in name


def inputs_of_dynamo(graph: GraphModule, example_inputs: Sequence[Any]) -> list[Any]:
    """What the placeholders of a Dynamo graph stand for: fake tensors, ints and SymInts."""
    placeholders = graph.graph.find_nodes(op="placeholder")
    return [
        node.meta.get("example_value", value)
        for node, value in zip(placeholders, example_inputs, strict=True)
    ]


def capture_exported(program: ExportedProgram) -> Program:
    """Capture an ExportedProgram: the same flat inputs, parameters and buffers first."""
    specs = program.graph_signature.input_specs
    placeholders = program.graph.find_nodes(op="placeholder")
    parameter = InputKind.PARAMETER
    constant = (InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
    captured = capture(
        program.graph_module,
        [node.meta["val"] for node in placeholders],
        [
            program.state_dict.get(spec.target or "") if spec.kind is parameter else None
            for spec in specs
        ],
        [spec.kind in constant for spec in specs],
    )
    literals = {
        node: program.constants[spec.target or ""]
        for node, spec in zip(captured.graph.graph.find_nodes(op="placeholder"), specs, strict=True)
        if spec.kind is InputKind.CONSTANT_TENSOR
    }
    return replace(captured, literals=literals)


def fake_mode_of(inputs: Sequence[Any]) -> FakeTensorMode:
    """The fake mode that all fake tensors among the inputs share."""
    for value in pytree.tree_leaves(inputs):
        mode = inner_fake_mode(value)
        if mode is not None:
            return mode
    raise NothingToTraceError("the graph has no tensor input, so there is nothing to trace")


def trace(
    function: Callable[..., Any], inputs: Sequence[Any], fake_mode: FakeTensorMode
) -> GraphModule:
    """Trace to pre-dispatch ATen under the inputs' own fake mode, keeping module paths."""

    def traced(*args: Any) -> Any:
        with switching():
            return function(*args)

    with ExitStack() as stack:
        stack.enter_context(fake_mode)
        stack.enter_context(_allow_real_constants(fake_mode))
        stack.enter_context(torch.fx.traceback.preserve_node_meta())
        stack.enter_context(_as_if_exporting())
        stack.enter_context(without_collecting())
        return make_fx(traced, pre_dispatch=True, _allow_non_fake_inputs=True)(*inputs)


@contextmanager
def without_collecting() -> Iterator[None]:
    """No garbage is looked for: that takes a tenth of a trace, and may end somebody's ``no_grad``,
    kept by a generator that nobody finished, in the middle of it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def restore_placeholders(source: GraphModule, graph: GraphModule) -> None:
    """Inputs keep the names and the metadata that later stages know them by."""
    old = source.graph.find_nodes(op="placeholder")
    new = graph.graph.find_nodes(op="placeholder")
    for before, after in zip(old, new, strict=True):
        after.meta.update({key: v for key, v in before.meta.items() if key not in after.meta})


@contextmanager
def _allow_real_constants(fake_mode: FakeTensorMode) -> Iterator[None]:
    before = fake_mode.allow_non_fake_inputs
    fake_mode.allow_non_fake_inputs = True
    try:
        yield
    finally:
        fake_mode.allow_non_fake_inputs = before


@contextmanager
def _as_if_exporting() -> Iterator[None]:
    """Without this, regions under vmap (mask functions of transformers) leave no nodes."""
    before = torch.compiler._is_exporting_flag
    torch.compiler._is_exporting_flag = True
    try:
        yield
    finally:
        torch.compiler._is_exporting_flag = before


def _saves_memory(source: GraphModule) -> bool:
    """Does the graph recompute activations in a backward pass that will be run?"""
    checkpoints = source.graph.find_nodes(op="call_function", target=CHECKPOINT)
    return bool(checkpoints) and torch.is_grad_enabled()


class _Flatten(torch.fx.Interpreter):
    """Runs the source graph; whole-layer ops are spelled out."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False

    def run_node(self, n: Node) -> Any:
        with failing_in("capture", n):
            return self._run_node(n)

    def _run_node(self, n: Node) -> Any:
        if n.op not in ("call_function", "call_method") or not wrappers(n):
            return super().run_node(n)
        mode = get_proxy_mode()
        assert mode is not None
        tracer: Any = mode.tracer
        operands = {
            source: proxy.node
            for source in n.all_input_nodes
            if isinstance(proxy := tracer.unwrap_proxy(self.env[source]), torch.fx.Proxy)
        }
        before = len(tracer.graph.nodes)
        try:
            value = super().run_node(n)
        except EXPECTED:
            raise
        except Exception as error:
            raise cannot_be_traced(n, error) from error
        note_call(n, operands, list(tracer.graph.nodes)[before:])
        return value

    def fetch_attr(self, target: str) -> Any:
        value = super().fetch_attr(target)
        if is_wrapper(value):
            raise CaptureError(
                f"its graph holds a {type(value).__name__} as a constant ({target}): make it a "
                "parameter or a buffer of the module"
            )
        return value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in (
            torch._transformer_encoder_layer_fwd,
            torch.ops.aten._transformer_encoder_layer_fwd.default,
        ):
            return encoder_layer(*args, **kwargs)
        if target is CHECKPOINT:
            # Its body is inlined, so that blocks inside can merge; activations are then kept.
            body, *inputs = args
            return _Flatten(body).run(*inputs)
        return super().call_function(target, args, kwargs)

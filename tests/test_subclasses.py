"""Models whose weights are tensor subclasses: quantised, distributed, wrapped, parametrised."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import pitome_fx
from pitome_fx.errors import CaptureError
from pitome_fx.options import Options
from tests.support.blocks import by_hand
from tests.support.compiled import compiled, has_pitome_nodes, output_of, recording, told
from tests.support.models import Case, bert, timm_vit
from tests.support.oracle import assert_close, assert_equal, assert_same_form, expected
from tests.support.subclasses import (
    OnlyLinear,
    RowWise,
    Spreading,
    Wrapper,
    quantised_linear,
    with_linears,
    with_weights,
)
from tests.zoo.check import Beside

KINDS = [Wrapper, OnlyLinear]


def small(depth: int = 2) -> Case:
    return by_hand(depth=depth).to(torch.float64)


def wrapped(case: Case, cls: type[Wrapper], **how: Any) -> Case:
    """A copy of a case with subclass weights."""
    model = with_weights(copy.deepcopy(case.model), cls.of, **how)
    return Case(model, case.args, case.kwargs, case.merges, case.tokens)


def simulation_error(case: Case, **options: Any) -> float:
    """How far the rewritten graph is from the simulation, both on the case's own weights."""
    beside = Beside(Options.parse(options))
    with torch.no_grad():
        torch.compile(case.model, backend=beside)(*case.args, **case.kwargs)
    assert all(outcome.rewritten is not None for outcome in beside.outcomes)
    return beside.error


@pytest.mark.parametrize("cls", KINDS)
@pytest.mark.parametrize("build", [small, timm_vit, bert])
def test_merges_as_with_plain_weights(build: Callable[[], Case], cls: type[Wrapper]) -> None:
    case = build().to(torch.float64)
    assert_close(output_of(wrapped(case, cls), ratio=0.8), expected(case, ratio=0.8), 1e-9)


@pytest.mark.parametrize("cls", KINDS)
@pytest.mark.parametrize(
    "options", [{"lowering": "aot_eager"}, {"form": "aten"}, {"form": "portable"}]
)
def test_however_it_is_lowered(cls: type[Wrapper], options: dict[str, Any]) -> None:
    case = small(depth=1)
    output = output_of(wrapped(case, cls), ratio=0.8, **options)
    assert_close(output, expected(case, ratio=0.8), 1e-9)


@pytest.mark.slow
def test_inductor() -> None:
    case = small(depth=1)
    output = output_of(wrapped(case, OnlyLinear), ratio=0.8, lowering="inductor")
    assert_close(output, expected(case, ratio=0.8), 1e-9)


def test_buffers_that_are_subclass_tensors() -> None:
    case = small()
    output = output_of(wrapped(case, OnlyLinear, buffers=True), ratio=0.8)
    assert_close(output, expected(case, ratio=0.8), 1e-9)


@pytest.mark.parametrize("lowering", ["eager", "aot_eager"])
def test_training(lowering: str) -> None:
    """Subclass weights get the gradients of the plain ones."""
    case = small(depth=1)
    other = wrapped(case, Wrapper, trained=True)
    results = []
    for model, how in ((case.model, "eager"), (other.model, lowering)):
        torch._dynamo.reset()
        compiled(model.train(), ratio=0.8, lowering=how)(*case.args).square().sum().backward()
        results.append({name: p.grad for name, p in model.named_parameters()})
    wanted, found = results
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        assert gradient is not None
        assert_close(found[name], gradient, 1e-9)


def test_symbolic_sizes() -> None:
    case = small(depth=1)
    options = {"ratio": 0.8, "lowering": "eager", "strict": True}
    model = wrapped(case, OnlyLinear).model
    merged = torch.compile(model, backend="pitome", options=options, dynamic=True)
    for batch in (2, 3):
        x = torch.randn(batch, *case.args[0].shape[1:], dtype=torch.float64)
        with torch.no_grad():
            assert_close(merged(x), expected(Case(case.model, (x,)), ratio=0.8), 1e-9)


def test_the_graph_calls_what_the_model_calls() -> None:
    """A class may know a function and none of its ops."""
    with recording() as graphs:
        output_of(wrapped(small(), OnlyLinear), ratio=0.8, lowering="recording")
    (graph,) = graphs
    assert has_pitome_nodes(graph)
    targets = [node.target for node in graph.graph.nodes]
    assert nn.functional.linear in targets and torch.ops.aten.linear.default not in targets


def test_explain_counts_what_runs_on_subclass_weights() -> None:
    case = small()
    reports = [
        pitome_fx.explain(model, case.args, ratio=0.8)
        for model in (case.model, wrapped(case, OnlyLinear).model)
    ]
    assert len({(r.merged, r.flops_before, r.flops_after) for r in reports}) == 1


def test_activations_quantised_token_by_token() -> None:
    """As in a model that says so in plain ops."""
    case = small()
    other = wrapped(case, RowWise)
    spelled = with_linears(copy.deepcopy(case.model), quantised_linear)
    assert_close(output_of(other, ratio=0.8), expected(Case(spelled, case.args), ratio=0.8), 1e-9)


class TestRefused:
    """Dense, with a reason that names the class and the place."""

    def reason(self, model: nn.Module, x: Tensor) -> str:
        with told() as messages, torch.no_grad():
            output = compiled(model, ratio=0.8, strict=False)(x)
            assert_equal(plain(output), plain(model(x)))
        (message,) = messages
        assert "runs dense" in message
        return message

    def test_tokens_that_are_subclass_tensors(self) -> None:
        case = small()
        reason = self.reason(wrapped(case, Spreading).model, case.args[0])
        assert "tokens in blocks.0" in reason and "are a Spreading" in reason

    def test_an_input_that_is_a_subclass_tensor(self) -> None:
        case = small()
        reason = self.reason(case.model, Spreading.of(case.args[0]))
        assert "are a Spreading" in reason

    @pytest.fixture
    def mesh(self) -> Iterator[Any]:
        distributed = pytest.importorskip("torch.distributed")
        if not distributed.is_available():
            pytest.skip("torch without distributed")
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        yield distributed.init_device_mesh("cpu", (1,))
        distributed.destroy_process_group()

    def test_tensor_parallel_layers(self, mesh: Any) -> None:
        """They turn tokens into DTensors and back in the graph."""
        from torch.distributed.tensor.parallel import (
            ColwiseParallel,
            RowwiseParallel,
            parallelize_module,
        )

        case = small()
        for block in case.model.blocks:
            parallelize_module(block, mesh, {"fc1": ColwiseParallel(), "fc2": RowwiseParallel()})
        reason = self.reason(case.model, case.args[0])
        assert "DTensor" in reason and "blocks.0" in reason and "report it" not in reason


def plain(x: Tensor) -> Tensor:
    return x.plain() if isinstance(x, Wrapper) else x


def test_transform_takes_what_export_takes() -> None:
    case = small()
    graph = pitome_fx.transform(wrapped(case, Wrapper).model, case.args, ratio=0.8, strict=True)
    with torch.no_grad():
        assert_close(graph(*case.args), expected(case, ratio=0.8), 1e-9)


def test_transform_says_what_to_do_where_export_looks_inside() -> None:
    case = small()
    with pytest.raises(CaptureError, match=r"blocks_0_qkv_weight, a OnlyLinear.*unwrap"):
        pitome_fx.transform(wrapped(case, OnlyLinear).model, case.args, ratio=0.8)


class Doubled(nn.Module):
    """A parametrisation of one's own."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


PARAMETRISATIONS: dict[str, Callable[[nn.Linear], Any]] = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "own": lambda linear: parametrize.register_parametrization(linear, "weight", Doubled()),
}


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_parametrised_weights(name: str) -> None:
    case = small()
    for module in case.model.modules():
        if isinstance(module, nn.Linear):
            PARAMETRISATIONS[name](module)
    model = case.model.eval()
    output = output_of(Case(model, case.args), ratio=0.8)
    baked = copy.deepcopy(model)
    for module in baked.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    assert_close(output, expected(Case(baked, case.args), ratio=0.8), 1e-9)


class TestQuantised:
    """Weights quantised by torchao; the rewritten graph beside its simulation on the same."""

    def quantised(self, build: Callable[[], Case], config: str) -> Case:
        quantization = pytest.importorskip("torchao.quantization")
        case = build()
        quantization.quantize_(case.model, getattr(quantization, config)())
        return case

    @pytest.mark.parametrize("build", [timm_vit, bert])
    def test_weights(self, build: Callable[[], Case]) -> None:
        case = self.quantised(build, "Int8WeightOnlyConfig")
        assert simulation_error(case, ratio=0.8) < 1e-5

    @pytest.mark.parametrize("build", [timm_vit, bert])
    def test_weights_and_activations(self, build: Callable[[], Case]) -> None:
        """Only that they merge and run: where a value is rounded to the other of two integers, as
        it is when the input changes by 1e-7, the dense model jumps by 1e-2 as well. What is
        computed, ``RowWise`` shows in float64, which torchao does not take."""
        case = self.quantised(build, "Int8DynamicActivationInt8WeightConfig")
        output = output_of(case, ratio=0.8)
        with torch.no_grad():
            assert_same_form(output, case.model(*case.args, **case.kwargs))

    def test_runs_under_inductor(self) -> None:
        case = self.quantised(lambda: by_hand(depth=1), "Int8WeightOnlyConfig")
        eager = output_of(case, ratio=0.8)
        torch._dynamo.reset()
        assert_close(output_of(case, ratio=0.8, lowering="inductor"), eager, 1e-5)

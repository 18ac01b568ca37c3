"""The forms of a rewritten graph: what other engines can take computes what the pitome ops do."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import pitome_fx
from pitome_fx import ALGORITHMS, OptionsError
from tests.support.blocks import BY_HAND, by_hand
from tests.support.compiled import has_pitome_nodes, output_of, recording
from tests.support.models import HUGGING_FACE, TIMM, TORCH, Case
from tests.support.oracle import assert_close, assert_equal, expected, transformed

MODELS = {**TIMM, **HUGGING_FACE, **TORCH, **BY_HAND}

ADDED = {
    *("abs", "add", "alias", "amax", "arange", "argmax", "cat", "chunk", "clamp", "clamp_min"),
    *("detach", "div", "elu", "eq", "exp", "expand", "expand_as", "ge", "getitem", "gt", "index"),
    *("index_select", "isfinite", "linalg_vector_norm", "log", "logical_not", "lt", "masked_fill"),
    *("matmul", "maximum", "mean", "mul", "narrow", "ne", "neg", "new_ones", "permute", "pow"),
    *("reciprocal", "remainder", "reshape", "rsub", "select", "slice", "squeeze", "stack", "sub"),
    *("floor_divide", "sum", "to", "topk", "transpose", "unsqueeze", "view", "where", "zeros_like"),
    *("floor", "full_like", "minimum", "ones_like", "pad", "sin", "softmax", "sqrt", "square"),
    *("__and__", "__or__", "bitwise_not", "movedim", "type_as"),
}
"""ATen ops that the portable form may add to those of the dense graph; all are everywhere."""


def op_names(graph: GraphModule) -> set[str]:
    """ATen ops of a graph, without their overloads."""
    targets = {node.target for node in graph.graph.nodes if node.op == "call_function"}
    return {getattr(t, "__name__", str(t)).split(".")[0] for t in targets}


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [*(("sdpa", name) for name in sorted(ALGORITHMS)), ("encoder-padded", "pitome")],
)
def test_only_ops_that_every_engine_knows_are_added(name: str, algorithm: str) -> None:
    case = MODELS[name]()
    options = {"algorithm": algorithm, "ratio": 0.8, "blocks": [0]}
    graph = transformed(case, form="portable", **options)
    dense = pitome_fx.transform(case.model, case.args, case.kwargs, ratio=1.0)
    assert op_names(graph) - op_names(dense) <= ADDED
    with torch.no_grad():
        wanted = transformed(case, **options)(*case.args, **case.kwargs)
        assert_close(graph(*case.args, **case.kwargs), wanted, 1e-5)


@pytest.mark.parametrize(
    "name", ["vit-mean-pool", "eva02", "encoder-padded", "bmm-bias", "sdpa-all-tokens"]
)
def test_forms_of_a_model_compute_the_same(name: str) -> None:
    case = MODELS[name]().to(torch.float64)
    program = torch.export.export(case.model, case.args, dict(case.kwargs))
    outputs: dict[str, Any] = {}
    for form in ("pitome", "aten", "portable"):
        after = pitome_fx.transform(program, ratio=0.8, strict=True, form=form)
        assert isinstance(after, torch.export.ExportedProgram)
        after.validate()
        assert has_pitome_nodes(after.graph_module) is (form == "pitome")
        with torch.no_grad():
            outputs[form] = after.module()(*case.args, **case.kwargs)
        if form == "portable":
            assert op_names(after.graph_module) - op_names(program.graph_module) <= ADDED
    assert_equal(outputs["aten"], outputs["pitome"])
    assert_close(outputs["portable"], outputs["pitome"], 1e-13)


def test_half_models() -> None:
    case = TIMM["vit"]().to(torch.bfloat16)
    with torch.no_grad():
        wanted = transformed(case, ratio=0.8)(*case.args)
        assert_close(transformed(case, ratio=0.8, form="portable")(*case.args), wanted, 2e-2)


def test_gradients_are_the_same() -> None:
    case = BY_HAND["sdpa-bias"]().to(torch.float64)
    gradients = []
    for form in ("pitome", "aten", "portable"):
        case.model.zero_grad()
        transformed(case, ratio=0.8, form=form)(*case.args).square().sum().backward()
        gradients.append([p.grad.clone() for p in case.model.parameters() if p.grad is not None])
    for own in gradients[1:]:
        for a, b in zip(own, gradients[0], strict=True):
            assert_close(a, b, 1e-11)


def test_batch_stays_dynamic() -> None:
    case = BY_HAND["sdpa-bias"]().to(torch.float64)
    shapes = {"x": {0: torch.export.Dim("batch", min=2, max=64)}}
    program = torch.export.export(case.model, case.args, dynamic_shapes=shapes)
    plain, ported = (
        pitome_fx.transform(program, ratio=0.8, strict=True, form=form)
        for form in ("pitome", "portable")
    )
    for size in (2, 5):
        x = torch.randn(size, 24, 24, dtype=torch.float64)
        with torch.no_grad():
            assert_close(ported.module()(x), plain.module()(x), 1e-13)


class TestChoice:
    """The form follows the lowering unless it is asked for."""

    @pytest.mark.parametrize("form", ["aten", "portable"])
    def test_asked_for_in_torch_compile(self, form: str) -> None:
        case = BY_HAND["sdpa"]().to(torch.float64)
        with recording() as graphs:
            output = output_of(case, ratio=0.8, lowering="recording", form=form)
        assert_close(output, expected(case, ratio=0.8), 1e-9)
        assert not has_pitome_nodes(graphs[0])
        assert ("topk" in op_names(graphs[0])) is (form == "portable")

    def test_default_of_each_lowering(self) -> None:
        case = BY_HAND["sdpa"]()
        for lowering, portable_form in [
            ("inductor", False),
            ("openvino", True),
            ("tensorrt", True),
        ]:
            graph = transformed(case, ratio=0.8, lowering=lowering)
            assert has_pitome_nodes(graph) is not portable_form

    @pytest.mark.parametrize("lowering", ["onnx", "pitome"])
    def test_lowering_that_there_is_none_of(self, lowering: str) -> None:
        with pytest.raises(OptionsError, match=f"{lowering}.* is no registered Dynamo backend"):
            transformed(BY_HAND["sdpa"](), lowering=lowering)

    def test_unknown(self) -> None:
        with pytest.raises(OptionsError, match=r"form=.onnx. is not allowed: .*portable"):
            transformed(BY_HAND["sdpa"](), form="onnx")


class Picking(nn.Module):
    """A transformer that picks channels by index, as its author wrote it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = by_hand(pool="none", depth=2).model

    def forward(self, x: Tensor) -> Tensor:
        order = torch.arange(x.shape[-1] - 1, -1, -1).expand(x.shape)
        return self.body(x.gather(-1, order))


def test_the_gathers_of_a_program_stay() -> None:
    case = Case(Picking().double().eval(), by_hand().args)
    graph = transformed(case, ratio=0.8, form="portable")
    gathers = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.gather.default)
    assert len(gathers) == 1

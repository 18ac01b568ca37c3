"""torch.compile(model, backend="pitome"): what it computes, and when it runs dense."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends import registry
from torch._dynamo.exc import BackendCompilerFailed
from torch.fx import GraphModule

import pitome_fx
from pitome_fx import OptionsError, PassError, RefusedError
from tests.support.blocks import BY_HAND, by_hand
from tests.support.compiled import compiled, has_pitome_nodes, output_of, recording, told
from tests.support.models import HUGGING_FACE, TIMM, TORCH, Case, bert, encoder
from tests.support.oracle import (
    assert_close,
    assert_equal,
    assert_same_form,
    expected,
    tensors,
    transformed,
)

MODELS = {**TIMM, **HUGGING_FACE, **TORCH, **BY_HAND}


def small() -> Case:
    return by_hand(depth=2).to(torch.float64)


@pytest.mark.parametrize("name", ["vit", "dinov2-registers", "beit", "bert", "hf-vit", "encoder"])
def test_compiled_is_simulated(name: str) -> None:
    case = MODELS[name]().to(torch.float64)
    output = output_of(case, ratio=0.8)
    with torch.no_grad():
        assert_same_form(output, case.model(*case.args, **case.kwargs))
    assert_close(output, expected(case, ratio=0.8), 1e-9)


def test_one_graph_with_visible_merges_reaches_the_lowering() -> None:
    with recording() as graphs:
        output_of(small(), ratio=0.8, lowering="recording")
    (graph,) = graphs
    targets = [str(node.target) for node in graph.graph.nodes]
    assert targets.count("pitome.match.default") == 2
    assert targets.count("pitome.merge.default") == 2


@pytest.mark.parametrize("nothing", [{"ratio": 1.0}, {"r": 0}, {"flops": 1}, {"schedule": [1, 1]}])
def test_without_merging_the_graph_is_as_dynamo_made_it(nothing: dict[str, Any]) -> None:
    case = small()
    with recording() as graphs, told() as messages:
        output = output_of(case, lowering="recording", **nothing)
    assert not any(has_pitome_nodes(graph) for graph in graphs)
    assert messages == []
    assert_equal(output, case.model(*case.args))


class TestNothingToMerge:
    """Exactly dense, with one warning that says why; strict raises."""

    MODELS: ClassVar = {
        "no attention was found": lambda: nn.Sequential(nn.Linear(24, 24), nn.GELU()),
        "attention pooling": lambda: Pooling(),
    }

    @pytest.mark.parametrize("reason", MODELS)
    def test_runs_dense_and_says_why(self, reason: str) -> None:
        model, x = self.MODELS[reason]().eval(), torch.randn(2, 24, 24)
        with recording() as graphs, told() as messages:
            output = compiled(model, lowering="recording", strict=False)(x)
        assert_equal(output, model(x))
        assert len(messages) == 1
        assert "runs dense" in messages[0] and reason in messages[0]
        assert not any(has_pitome_nodes(graph) for graph in graphs)

    @pytest.mark.parametrize("reason", MODELS)
    def test_strict_raises(self, reason: str) -> None:
        with pytest.raises(BackendCompilerFailed) as failure:
            compiled(self.MODELS[reason]().eval())(torch.randn(2, 24, 24))
        assert isinstance(failure.value.inner_exception, RefusedError)
        assert reason in str(failure.value)

    def test_is_compiled_as_often_as_dense(self) -> None:
        model = Pooling().eval()

        def compilations(backend: Any, **settings: Any) -> int:
            torch._dynamo.reset()
            with recording() as graphs, told():
                f = torch.compile(model, backend=backend, **settings)
                for batch, tokens in [(2, 24), (3, 24), (4, 24), (4, 30), (4, 31), (9, 40)]:
                    f(torch.randn(batch, tokens, 24))
            return len(graphs)

        options = {"lowering": "recording"}
        assert compilations("pitome", options=options) == compilations("recording")


class Pooling(nn.Module):
    """A learned query attends to all tokens: no residual stream carries them on."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, 24))
        self.norm, self.value = nn.LayerNorm(24), nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        k = self.norm(x)
        mixed = nn.functional.scaled_dot_product_attention(k, k, self.value(k))
        return nn.functional.scaled_dot_product_attention(
            self.query.expand(x.shape[0], -1, -1), mixed, mixed
        )


STAGES = [
    "pitome_fx.backends.dynamo.capture_dynamo",
    "pitome_fx.passes.pipeline.detect",
    "pitome_fx.passes.pipeline.make_plan",
    "pitome_fx.passes.rewrite.profit.rewrite",
]


class TestFailingPass:
    """An exception inside the pass does not kill the user's model."""

    @pytest.fixture(params=STAGES)
    def broken(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: Any, **kwargs: Any) -> None:
            raise KeyError("the stage broke")

        monkeypatch.setattr(request.param, fail)

    @pytest.mark.usefixtures("broken")
    def test_falls_back_to_dense_with_the_reason(self) -> None:
        case = small()
        with told() as messages:
            assert_equal(output_of(case, strict=False), case.model(*case.args))
        assert len(messages) == 1
        assert "KeyError" in messages[0] and "the stage broke" in messages[0]
        assert "report it" in messages[0]

    @pytest.mark.usefixtures("broken")
    def test_strict_raises_it(self) -> None:
        with pytest.raises(BackendCompilerFailed) as failure:
            output_of(small())
        raised = failure.value.inner_exception
        assert isinstance(raised, PassError) and isinstance(raised.__cause__, KeyError)

    def test_leaves_no_guard_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A stage that specialised a symbolic size before it failed costs no recompile."""

        def specialise(program: Any, *args: Any) -> None:
            sizes = [int(size) for x in program.inputs if isinstance(x, Tensor) for size in x.shape]
            raise KeyError(sizes)

        monkeypatch.setattr("pitome_fx.passes.rewrite.profit.rewrite", specialise)
        model, options = small().model, {"lowering": "recording", "ratio": 0.8}
        with recording() as graphs, told() as messages, torch.no_grad():
            merged = torch.compile(model, backend="pitome", options=options, dynamic=True)
            for batch in (2, 3, 5, 7):
                merged(torch.randn(batch, 24, 24, dtype=torch.float64))
        assert len(graphs) == len(messages) == 1

    def test_a_lowering_that_cannot_merge_gets_the_dense_graph(self) -> None:
        def picky(graph: GraphModule, inputs: Any) -> Any:
            if has_pitome_nodes(graph):
                raise NotImplementedError("what is a token?")
            return graph.forward

        torch._dynamo.register_backend(picky, name="picky")
        case = small()
        with told() as messages:
            output = output_of(case, ratio=0.8, lowering="picky", strict=False)
        assert_equal(output, case.model(*case.args))
        assert len(messages) == 1 and "what is a token?" in messages[0]
        torch._dynamo.reset()
        with pytest.raises(BackendCompilerFailed, match="what is a token"):
            output_of(case, ratio=0.8, lowering="picky")
        del registry._BACKENDS["picky"], registry._COMPILER_FNS["picky"]

    def test_a_report_that_breaks_is_no_reason_to_fail(self, monkeypatch: Any) -> None:
        def fail(*args: Any) -> None:
            raise KeyError("no report")

        monkeypatch.setattr("pitome_fx.backends.dynamo.make_report", fail)
        model, x = Pooling().eval(), torch.randn(2, 24, 24)
        with told() as messages:
            assert_equal(compiled(model, strict=False)(x), model(x))
        assert len(messages) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratoi": 0.9}, "Did you mean 'ratio'"),
        ({"ratio": 0.2}, r"ratio=0\.2 is not allowed"),
        ({"ratio": 0.9, "r": 3}, "more than once"),
        ({"schedule": [0.9]}, "has 1 values, but 2 blocks"),
        ({"lowering": "tensorflow"}, "no registered Dynamo backend.*aot_eager"),
        ({"lowering": "tvm", "ratio": 0.8}, "'tvm' needs a package that cannot be imported: .*tvm"),
        ({"lowering": "openxla", "ratio": 0.8}, "'openxla' needs a package that cannot be"),
        ({"lowering": "aot_eager", "lowering_options": {"a": 1}}, "'aot_eager' takes no lowering_"),
        (
            {"lowering": "inductor", "lowering_options": {"max_autotun": True}},
            "Inductor has no setting 'max_autotun'. Did you mean 'max_autotune'",
        ),
        ({"lowering": "openvino", "form": "aten"}, "give form='portable'"),
        ({"lowering": "tensorrt", "form": "pitome"}, "give form='portable'"),
        ({"lowering": "pitome"}, "would lower to itself"),
        ({"ratio": 0.8, "lowering_options": {"mode": "default"}}, "takes no lowering_options"),
    ],
)
def test_wrong_options_always_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=f"(?s){message}") as failure:
        output_of(small(), strict=False, **options)
    error = failure.value
    inner = error.inner_exception if isinstance(error, BackendCompilerFailed) else error
    assert isinstance(inner, OptionsError)


def test_mode_is_for_inductor() -> None:
    case = small()
    with pytest.raises(BackendCompilerFailed, match="lowering='inductor' only"):
        backend = torch._dynamo.lookup_backend("pitome")
        dense = torch.compile(
            case.model,
            backend=lambda gm, inputs: backend(
                gm, inputs, mode="max-autotune", options={"lowering": "eager"}
            ),
        )
        dense(*case.args)


@pytest.mark.parametrize("lowering", ["eager", "aot_eager", "aot_eager_decomp_partition"])
def test_any_dynamo_backend_lowers(lowering: str) -> None:
    case = small()
    assert_close(output_of(case, ratio=0.8, lowering=lowering), expected(case, ratio=0.8), 1e-9)


def test_graph_breaks_merge_in_every_graph() -> None:
    first, second = by_hand(pool="none", depth=2), by_hand(depth=2)

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.widen, self.second = first.model, nn.Linear(5, 24), second.model

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            torch._dynamo.graph_break()
            assert x.shape == (2, 25, 5)
            return self.second(self.widen(x)[:, 1:])

    model = Broken().eval()
    with recording() as graphs, torch.no_grad():
        output = compiled(model, ratio=0.8, lowering="recording")(*first.args)
        halfway = transformed(first, ratio=0.8)(*first.args)
        rest = Case(second.model, (model.widen(halfway)[:, 1:],))
        assert_close(output, transformed(rest, ratio=0.8)(*rest.args), 1e-5)
    assert [has_pitome_nodes(graph) for graph in graphs] == [True, True]


def test_functions_and_inference_mode() -> None:
    case = small()

    def score(x: Tensor) -> Tensor:
        return case.model(x * 2).softmax(-1)

    with torch.inference_mode():
        output = compiled(score, ratio=0.8)(case.args[0] / 2)
    assert_close(output, expected(case, ratio=0.8).softmax(-1), 1e-9)


def test_other_options_are_another_compile() -> None:
    case = small()
    outputs = [output_of(case, ratio=ratio) for ratio in (0.9, 0.6, 0.9)]
    assert_equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize("build", [small, bert, encoder])
def test_inputs_and_parameters_are_not_written(build: Any) -> None:
    case = build()
    held = tensors((case.args, dict(case.kwargs), list(case.model.parameters())))
    before = [x.detach().clone() for x in held]
    output_of(case, ratio=0.8)
    assert all(torch.equal(a, b) for a, b in zip(held, before, strict=True))


def test_explain_agrees_with_what_is_compiled() -> None:
    case = small()
    report = pitome_fx.explain(case.model, case.args, ratio=0.8)
    with recording() as graphs:
        output_of(case, ratio=0.8, lowering="recording")
    matches = [n for n in graphs[0].graph.nodes if str(n.target) == "pitome.match.default"]
    removed = [block.tokens_before - block.tokens_after for block in report.blocks]
    assert [node.args[4] for node in matches] == removed

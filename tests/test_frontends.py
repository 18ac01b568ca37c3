"""transform on modules, FX graphs and exported programs."""

import io
from typing import Any

import pytest
import torch
import torch.fx
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

import pitome_fx
from pitome_fx import OptionsError, PitomeWarning, RefusedError
from pitome_fx.testing import simulate
from tests.support.blocks import by_hand
from tests.support.models import Case, bert, timm_vit
from tests.support.oracle import (
    assert_close,
    assert_equal,
    expected,
    pitome_nodes,
    transformed,
)


def small() -> Case:
    return by_hand(depth=2).to(torch.float64)


def symbolic(case: Case) -> GraphModule:
    """The model as torch.fx sees it: call_module and call_method nodes, no ATen."""
    return torch.fx.symbolic_trace(case.model, concrete_args={"mask": None})


def exported(case: Case, **settings: Any) -> ExportedProgram:
    return torch.export.export(case.model, case.args, dict(case.kwargs), **settings)


FORMS = {"module": lambda case: case.model, "symbolic_trace": symbolic, "exported": exported}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_program_becomes_the_same(form: str) -> None:
    case = small()
    result = pitome_fx.transform(FORMS[form](case), case.args, ratio=0.8, strict=True)
    assert isinstance(result, ExportedProgram if form == "exported" else GraphModule)
    run = result.module() if isinstance(result, ExportedProgram) else result
    with torch.no_grad():
        assert_close(run(*case.args), expected(case, ratio=0.8), 1e-9)


@pytest.mark.parametrize("form", ["module", "symbolic_trace"])
def test_parameters_are_shared(form: str) -> None:
    case = small()
    graph = pitome_fx.transform(FORMS[form](case), case.args, ratio=0.8, strict=True)
    assert set(graph.state_dict()) == set(case.model.state_dict())
    own = dict(graph.named_parameters())
    for name, parameter in case.model.named_parameters():
        assert own[name].data_ptr() == parameter.data_ptr()

    with torch.no_grad():
        case.model.head.bias += 1
        assert_close(graph(*case.args), expected(case, ratio=0.8), 1e-9)


def test_buffers_are_shared() -> None:
    case = small()
    case.model.head = nn.Sequential(nn.BatchNorm1d(24), nn.Linear(24, 5)).eval().double()
    graph = transformed(case, ratio=0.8)
    assert set(graph.state_dict()) == set(case.model.state_dict())
    with torch.no_grad():
        case.model.head[0].running_mean += 1
        assert_close(graph(*case.args), expected(case, ratio=0.8), 1e-9)


def test_keyword_inputs_keep_their_names() -> None:
    case = bert().to(torch.float64)
    graph = transformed(case, ratio=0.8)
    with torch.no_grad():
        swapped = graph(**dict(reversed(case.kwargs.items())))
        assert_close(swapped, expected(case, ratio=0.8), 1e-9)
        assert type(swapped) is type(case.model(**case.kwargs))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_mode_is_fixed(training: bool) -> None:
    case = small()
    graph = pitome_fx.transform(case.model.train(training), case.args, ratio=0.8)
    assert graph.training is training
    assert graph.train(training) is graph
    switch, wanted = (graph.eval, "eval") if training else (graph.train, "train")
    with pytest.raises(RuntimeError, match=rf"Call \.{wanted}\(\) on the original model"):
        switch()


def test_dropout_follows_the_mode() -> None:
    layer = nn.TransformerEncoderLayer(24, 3, 48, dropout=0.5, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(2, 24, 24)
    live = pitome_fx.transform(model.train(), (x,), ratio=0.8)
    assert not torch.equal(live(x), live(x))
    fixed = pitome_fx.transform(model.eval(), (x,), ratio=0.8)
    assert_equal(fixed(x), fixed(x))


@pytest.mark.parametrize("form", FORMS)
def test_transforming_twice_is_refused(form: str) -> None:
    case = small()
    once = pitome_fx.transform(FORMS[form](case), case.args, ratio=0.8)
    with pytest.raises(RefusedError, match=r"transformed already.*original model"):
        pitome_fx.transform(once, case.args, ratio=0.8)


def test_transformed_model_is_refused_by_the_backend_too() -> None:
    case = small()
    once = transformed(case, ratio=0.8)
    twice = torch.compile(once, backend="pitome", options={"strict": True, "lowering": "eager"})
    with pytest.raises(Exception, match="transformed already"):
        twice(*case.args)


def test_without_merging_the_model_is_as_it_was() -> None:
    case = small()
    graph = pitome_fx.transform(case.model, case.args, ratio=1.0, strict=True)
    assert_equal(graph(*case.args), case.model(*case.args))
    assert not any("pitome" in str(node.target) for node in graph.graph.nodes)


def test_nothing_to_merge_warns_once_and_strict_raises() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU()), torch.randn(2, 8)
    with pytest.warns(PitomeWarning, match="runs dense: no attention was found") as caught:
        graph = pitome_fx.transform(model, (x,))
    assert len(caught) == 1
    assert_equal(graph(x), model(x))
    with pytest.raises(RefusedError, match="no attention was found"):
        pitome_fx.transform(model, (x,), strict=True)


@pytest.mark.parametrize("program", [lambda x: x, "model", nn.Linear])
def test_only_programs_are_transformed(program: Any) -> None:
    with pytest.raises(TypeError, match=r"nn\.Module"):
        pitome_fx.transform(program, (torch.ones(1),))


def test_a_module_needs_example_inputs() -> None:
    with pytest.raises(TypeError, match="example inputs"):
        pitome_fx.transform(small().model)


def test_wrong_option_is_named() -> None:
    case = small()
    with pytest.raises(OptionsError, match="Did you mean 'ratio'"):
        pitome_fx.transform(case.model, case.args, ratoi=0.9)


class TestExportedProgram:
    """A new program that keeps everything but its graph."""

    @pytest.mark.parametrize("build", [small, lambda: bert().to(torch.float64), timm_vit])
    def test_it_is_valid_and_has_the_same_signature(self, build: Any) -> None:
        case = build()
        before = exported(case)
        code = before.graph_module.code
        after = pitome_fx.transform(before, ratio=0.8, strict=True)
        assert isinstance(after, ExportedProgram) and after is not before
        after.validate()
        assert before.graph_module.code == code, "the original is untouched"

        assert after.graph_signature.user_inputs == before.graph_signature.user_inputs
        assert after.graph_signature.parameters == before.graph_signature.parameters
        assert after.graph_signature.buffers == before.graph_signature.buffers
        assert after.state_dict.keys() == before.state_dict.keys()
        assert after.call_spec == before.call_spec
        names = [node.name for node in after.graph.find_nodes(op="placeholder")]
        assert names == [node.name for node in before.graph.find_nodes(op="placeholder")]

    def test_it_survives_save_and_load(self) -> None:
        case = small()
        program = pitome_fx.transform(exported(case), ratio=0.8, strict=True)
        assert isinstance(program, ExportedProgram)
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        loaded = torch.export.load(file)
        assert pitome_nodes(loaded.graph_module, "match")
        with torch.no_grad():
            assert_equal(loaded.module()(*case.args), program.module()(*case.args))

    def test_its_pitome_ops_dissolve_into_aten(self) -> None:
        case = small()
        program = pitome_fx.transform(exported(case), ratio=0.8, strict=True)
        assert isinstance(program, ExportedProgram)
        core = program.run_decompositions()
        assert not any("pitome" in str(node.target) for node in core.graph.nodes)
        with torch.no_grad():
            assert_close(core.module()(*case.args), program.module()(*case.args), 1e-12)

    def test_batch_stays_dynamic(self) -> None:
        case = small()
        batch = {0: torch.export.Dim("batch", min=2, max=64)}
        before = exported(case, dynamic_shapes={"x": batch})
        after = pitome_fx.transform(before, ratio=0.8, strict=True)
        assert isinstance(after, ExportedProgram)
        assert after.range_constraints == before.range_constraints
        for size in (2, 3, 7):
            args = (torch.randn(size, 24, 24, dtype=torch.float64),)
            with torch.no_grad():
                wanted = simulate(case.model, args, ratio=0.8)
                assert_close(after.module()(*args), wanted, 1e-9)

    def test_inputs_may_have_the_names_of_nodes(self) -> None:
        class Named(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = small().model

            def forward(self, add: torch.Tensor, add_value: torch.Tensor) -> torch.Tensor:
                return self.model(add + add_value)

        args = tuple(torch.randn(2, 2, 24, 24, dtype=torch.float64))
        model = Named().eval()
        after = pitome_fx.transform(torch.export.export(model, args), ratio=0.8, strict=True)
        assert isinstance(after, ExportedProgram)
        with torch.no_grad():
            assert_close(after.module()(*args), simulate(model, args, ratio=0.8), 1e-9)

    def test_buffers_it_writes_are_still_written(self) -> None:
        case = small()
        case.model.head = nn.Sequential(nn.BatchNorm1d(24), nn.Linear(24, 5)).double()
        case.model.train()
        before = exported(case)
        after = pitome_fx.transform(before, ratio=0.8, strict=True)
        assert isinstance(after, ExportedProgram)
        module = after.module()
        mean = module.state_dict()["head.0.running_mean"].clone()
        module(*case.args)
        assert not torch.equal(module.state_dict()["head.0.running_mean"], mean)

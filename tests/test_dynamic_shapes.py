"""Dynamic batch sizes and text lengths: one compile, right for all of them."""

import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import pitome_fx
from pitome_fx import PitomeWarning
from pitome_fx.frontends.transform import spelled_out_layers
from pitome_fx.options import FORMS
from pitome_fx.passes.dissolve.exported import in_form
from pitome_fx.testing import run_recorded, simulate
from tests.support.blocks import BY_HAND, by_hand
from tests.support.compiled import compiled, has_pitome_nodes, recording, told
from tests.support.models import HUGGING_FACE, TIMM, TORCH, Case, token_ids
from tests.support.oracle import assert_close, assert_same_form

MODELS = {**TIMM, **HUGGING_FACE, **TORCH, **BY_HAND}
BATCHED = ["vit", "beit", "bert", "encoder-padded", "bmm-bias"]


def of_batch(case: Case, size: int, mark: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The case's inputs with other values and another batch size."""

    def resized(x: Tensor) -> Tensor:
        items = torch.arange(size) % x.shape[0]
        x = x.index_select(0, items)
        x = x + torch.randn_like(x) if x.is_floating_point() else x
        if mark:
            torch._dynamo.mark_dynamic(x, 0)
        return x

    return pytree.tree_map_only(Tensor, resized, (case.args, dict(case.kwargs)))


@pytest.mark.parametrize("name", BATCHED)
def test_one_graph_serves_every_batch_size(name: str) -> None:
    case = MODELS[name]().to(torch.float64)
    with recording() as graphs, torch.no_grad():
        model = compiled(case.model, ratio=0.8, lowering="recording")
        for size in (2, 5):
            args, kwargs = of_batch(case, size, mark=True)
            output = model(*args, **kwargs)
            assert_close(output, simulate(case.model, args, kwargs, ratio=0.8), 1e-9)
            assert_same_form(output, case.model(*args, **kwargs))
    assert len(graphs) == 1


@pytest.mark.parametrize("name", ["vit", "encoder"])
def test_compiled_as_often_as_dense(name: str) -> None:
    case = MODELS[name]()

    def compilations(backend: str, **settings: Any) -> int:
        torch._dynamo.reset()
        with recording() as graphs, torch.no_grad():
            model = torch.compile(case.model, backend=backend, **settings)
            for size in (2, 3, 4, 1):
                args, kwargs = of_batch(case, size, mark=False)
                model(*args, **kwargs)
        return len(graphs)

    options = {"lowering": "recording", "ratio": 0.8, "strict": True}
    assert compilations("pitome", options=options) == compilations("recording")


def text(tokens: int) -> tuple[tuple[()], Mapping[str, Tensor]]:
    inputs = token_ids(max(tokens, 24))
    return (), {key: value[:, :tokens] for key, value in inputs.items()}


def sequence(tokens: int) -> tuple[tuple[Tensor], Mapping[str, Tensor]]:
    return (torch.randn(2, tokens, 48, dtype=torch.float64),), {}


LENGTHS = {"bert": text, "encoder": sequence}


@pytest.mark.parametrize("name", LENGTHS)
def test_one_graph_serves_every_length(name: str) -> None:
    """Also those too short to merge anything: outputs keep their form, and no call fails."""
    case = MODELS[name]().to(torch.float64)
    with recording(), torch.no_grad(), told():
        model = compiled(case.model, ratio=0.9, lowering="recording", strict=False)
        for tokens in (40, 24, 12, 6, 2):
            args, kwargs = LENGTHS[name](tokens)
            for x in (*args, *kwargs.values()):
                torch._dynamo.maybe_mark_dynamic(x, 1)
            output = model(*args, **kwargs)
            assert_same_form(output, case.model(*args, **kwargs))
            assert all(x.isfinite().all() for x in pytree.tree_leaves(output))


@pytest.mark.parametrize("ratio", [0.95, 0.6])
@pytest.mark.parametrize("name", LENGTHS)
def test_the_law_holds_at_every_length(name: str, ratio: float) -> None:
    case = MODELS[name]().to(torch.float64)
    args, kwargs = LENGTHS[name](40)
    length = torch.export.Dim("length", min=16, max=64)
    shapes = [{1: length} for _ in (*args, *kwargs)]
    program = torch.export.export(case.model, args, dict(kwargs), dynamic_shapes=shapes)
    merged = pitome_fx.transform(program, ratio=ratio, strict=True)
    assert isinstance(merged, torch.export.ExportedProgram)
    for tokens in (40, 24, 57):
        args, kwargs = LENGTHS[name](tokens)
        with torch.no_grad():
            output, assignments = run_recorded(merged.module(), *args, **kwargs)
            wanted = simulate(program, args, kwargs, ratio=ratio)
        assert_close(output, wanted, 1e-9)
        # The closed form of the plan: ⌈T·c/q⌉ tokens with c = q·ratioⁿ. BERT's class token stays
        # alone, and with padding one more token is spared.
        left = [int(a.max()) + 1 for a in assignments]
        alone = 2 if name == "bert" else 0
        assert left[0] == pytest.approx(alone + (tokens - alone) * ratio, abs=1)
        assert left[2] == pytest.approx(alone + (tokens - alone) * ratio**3, abs=1)


@pytest.mark.parametrize("amount", [{"ratio": 0.9}, {"flops": 0.6}, {"r": 5}], ids=str)
def test_numbers_do_not_depend_on_which_length_came_first(amount: dict[str, Any]) -> None:
    """A length compiled first, on its own, or met by a graph for many lengths: the same tokens."""
    case = MODELS["encoder"]().to(torch.float64)
    with recording() as graphs, torch.no_grad(), told():
        model = compiled(case.model, lowering="recording", strict=False, **amount)
        # The last ones are too short for some of the blocks, or for any.
        for tokens in (28, 41, 33, 60, 12, 9, 7):
            args, _ = sequence(tokens)
            alone = pitome_fx.transform(case.model, args, **amount)
            assert_close(model(*args), alone(*args), 1e-12)
    assert len(graphs) < 6


class TestExported:
    """A program with symbolic sizes keeps its range, and the caller's own keeps its guards."""

    SIZES = ((3, 2), (3, 3), (3, 5), (3, 8), (3, 24), (1, 2), (1, 5), (1, 24), (7, 57))

    def program(self, batch: bool, depth: int = 1) -> Any:
        layer = torch.nn.TransformerEncoderLayer(24, 3, 48, batch_first=True)
        model = torch.nn.TransformerEncoder(layer, depth, enable_nested_tensor=False).eval()
        sizes = {1: torch.export.Dim("length", min=2, max=5000)}
        if batch:
            sizes[0] = torch.export.Dim("batch", min=1, max=64)
        with spelled_out_layers():
            return torch.export.export(model, (torch.randn(3, 24, 24),), dynamic_shapes=(sizes,))

    @pytest.mark.parametrize("batch", [False, True], ids=["length", "batch and length"])
    def test_every_form_runs_in_the_whole_range(self, batch: bool) -> None:
        program = self.program(batch, depth=2)
        runs: dict[str, Any] = {
            form: pitome_fx.transform(program, ratio=0.8, strict=True, form=form).module()
            for form in FORMS
        }
        for size in self.SIZES:
            if not batch and size[0] != 3:
                continue
            x = torch.randn(*size, 24)
            with torch.no_grad():
                wanted = runs["pitome"](x)
                if size[1] >= 24:
                    assert_close(wanted, simulate(program.module(), (x,), ratio=0.8), 1e-5)
                assert_close(runs["aten"](x), wanted, 1e-6)
                assert_close(runs["portable"](x), wanted, 1e-5)

    @pytest.mark.parametrize("form", FORMS)
    def test_the_callers_program_is_not_narrowed(self, form: str) -> None:
        program = self.program(batch=True)
        merged = pitome_fx.transform(program, ratio=0.8, strict=True, form=form)
        if form == "pitome":
            in_form(merged, "portable")
        pitome_fx.explain(program, ratio=0.8)
        x = torch.randn(1, 5, 24)
        with torch.no_grad():
            assert_close(program.run_decompositions({}).module()(x), program.module()(x), 1e-6)


def test_a_length_too_short_to_merge_does_not_decide_for_others() -> None:
    model = by_hand(pool="mean", depth=2).model
    options = {"lowering": "recording", "ratio": 0.8}
    with recording() as graphs, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", PitomeWarning)
        merged = torch.compile(model, backend="pitome", options=options, dynamic=True)
        for tokens in (4, 32, 48):
            merged(torch.randn(2, tokens, 24))
    assert [has_pitome_nodes(graph) for graph in graphs] == [False, True]


def test_a_length_that_a_guard_has_fixed_is_known() -> None:
    """As ``chunk`` fixes it: cuts from the end are cuts from the end again."""

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = by_hand(pool="none", depth=2).model

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)[:, 1:].chunk(2, 1)[0].mean(1)

    model, x = Halves(), torch.randn(2, 32, 24)
    options = {"lowering": "recording", "ratio": 0.8, "strict": True}
    with recording() as graphs, torch.no_grad():
        found = torch.compile(model, backend="pitome", options=options, dynamic=True)(x)
        wanted = pitome_fx.transform(model, (x,), ratio=0.8)(x)
    assert has_pitome_nodes(graphs[0])
    assert_close(found, wanted, 1e-5)

"""Training through a compiled model: gradients flow through merge and unmerge."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pitome_fx import explain
from pitome_fx.testing import run_recorded, simulate
from tests.support.blocks import Block, Transformer, by_hand
from tests.support.compiled import compiled, has_pitome_nodes, recording, told
from tests.support.models import Case, bert, encoder, timm_vit
from tests.support.oracle import assert_same_form, relative_error, tensors, transformed

Gradients = dict[str, Tensor]


def trained(case: Case) -> Case:
    """The case in train mode."""
    case.model.train()
    return case


def without_dropout(case: Case) -> Case:
    """The case in train mode, every dropout with p = 0."""
    for module in case.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return trained(case)


def gradients(case: Case, run: Callable[..., Any]) -> Gradients:
    """Of a loss that weighs every output value differently, by parameter and for the inputs."""
    case.model.zero_grad()
    inputs = [x for x in case.args if x.is_floating_point()]
    for x in inputs:
        x.requires_grad_().grad = None
    outputs = [x for x in tensors(run(*case.args, **case.kwargs)) if x.requires_grad]
    generator = torch.Generator().manual_seed(0)
    loss = sum(
        (x * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)).sum()
        for x in outputs
    )
    assert isinstance(loss, Tensor)
    loss.backward()
    named = {name: p.grad for name, p in case.model.named_parameters() if p.grad is not None}
    given = {f"input {i}": x.grad for i, x in enumerate(inputs) if x.grad is not None}
    return {name: grad.clone() for name, grad in {**named, **given}.items()}


def assert_same_gradients(found: Gradients, wanted: Gradients, tolerance: float) -> None:
    """Each relative to its largest value; softmax does not see the keys' own bias."""
    assert found.keys() == wanted.keys()
    for name in found:
        if not name.endswith("key.bias"):
            error = relative_error(found[name], wanted[name])
            assert error <= tolerance, f"{name}: relative error {error:.1e}"


MODELS: dict[str, Callable[[], Case]] = {
    "vit": timm_vit,
    "vit-layer-scale": lambda: timm_vit(init_values=0.3),
    "bert": bert,
    "encoder-padded": lambda: encoder(padded=True),
    "einsum-bias": lambda: by_hand("einsum", bias=True, pool="mean"),
    "all-tokens": lambda: by_hand(pool="none"),
}


@pytest.mark.parametrize("lowering", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_the_simulation(name: str, lowering: str) -> None:
    case = without_dropout(MODELS[name]().to(torch.float64))
    wanted = gradients(case, lambda *a, **k: simulate(case.model, a, k, ratio=0.8))
    found = gradients(case, compiled(case.model, ratio=0.8, lowering=lowering))
    assert_same_gradients(found, wanted, 1e-9)


@pytest.mark.slow
def test_gradients_through_inductor() -> None:
    case = without_dropout(by_hand(depth=2))
    graph = transformed(case, ratio=0.8)
    _, assignments = run_recorded(graph, *case.args)
    wanted = gradients(case, lambda *a: simulate(case.model, a, ratio=0.8, assignments=assignments))
    found = gradients(case, compiled(case.model, ratio=0.8, lowering="inductor"))
    assert_same_gradients(found, wanted, 1e-5)


@pytest.mark.parametrize("name", ["vit-dropout", "bert", "encoder-padded"])
def test_with_dropout_gradients_are_finite_and_random(name: str) -> None:
    builders = {**MODELS, "vit-dropout": lambda: timm_vit(proj_drop_rate=0.2, attn_drop_rate=0.2)}
    case = trained(builders[name]())
    model = compiled(case.model, ratio=0.8, lowering="aot_eager")
    first, second = gradients(case, model), gradients(case, model)
    assert all(grad.isfinite().all() for grad in first.values())
    assert any(not torch.equal(first[key], second[key]) for key in first)


def test_every_parameter_gets_a_gradient() -> None:
    case = without_dropout(timm_vit())
    found = gradients(case, compiled(case.model, ratio=0.6))
    assert set(found) == {*dict(case.model.named_parameters()), "input 0"}
    assert all(grad.abs().max() > 0 for grad in found.values())


def test_the_loss_falls() -> None:
    case = without_dropout(by_hand())
    model = compiled(case.model, ratio=0.8, lowering="aot_eager")
    optimiser = torch.optim.Adam(case.model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(*case.args), torch.tensor([1, 4]))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def test_train_and_eval_are_compiled_apart() -> None:
    case = timm_vit(proj_drop_rate=0.5)
    model = compiled(case.model, ratio=0.8)
    model.eval()
    assert torch.equal(model(*case.args), model(*case.args))
    model.train()
    assert not torch.equal(model(*case.args), model(*case.args))


class Checkpointed(Transformer):
    """Every block is a checkpoint."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            assert isinstance(block, Block)
            x = checkpoint(block, x, use_reentrant=False)
        return self.head(x[:, 0])


@pytest.mark.filterwarnings("ignore:pitome. activation checkpointing:pitome_fx.PitomeWarning")
def test_activation_checkpointing() -> None:
    plain = without_dropout(by_hand().to(torch.float64))
    model = Checkpointed().double().train()
    model.load_state_dict(plain.model.state_dict())
    wanted = gradients(plain, lambda x: simulate(plain.model, (x,), ratio=0.8))
    case = Case(model, plain.args)
    with recording() as graphs:
        gradients(case, compiled(model, ratio=0.8, lowering="recording"))
    assert all(has_pitome_nodes(graph) for graph in graphs)
    found = gradients(case, compiled(model, ratio=0.8, lowering="aot_eager"))
    assert_same_gradients(found, wanted, 1e-9)


class TestCheckpointsThatSaveNothing:
    """Where something merges, checkpoints are dissolved, and the user is told once."""

    def told_of(self, training: bool = True, **options: Any) -> list[str]:
        model, x = Checkpointed().train(), by_hand().args[0]
        with told() as messages, torch.set_grad_enabled(training):
            merged = compiled(model, **options)
            merged(x)
            merged(x)
        return messages

    def test_told_once(self) -> None:
        (message,) = self.told_of(ratio=0.8)
        assert "activation checkpointing" in message and "ratio=1.0" in message

    def test_not_where_nothing_is_kept_for_backward(self) -> None:
        assert self.told_of(training=False, ratio=0.8) == []

    def test_not_where_nothing_merges(self) -> None:
        assert self.told_of(ratio=1.0) == []
        torch._dynamo.reset()
        (message,) = self.told_of(ratio=0.8, blocks=[], strict=False)
        assert "runs dense" in message

    def test_the_report_says_so(self) -> None:
        x = by_hand().args[0]
        report = explain(Checkpointed().train(), (x,), ratio=0.8)
        assert report.merged and any("checkpointing" in note for note in report.notes)


@pytest.mark.parametrize(
    ("name", "lowering"),
    [
        ("vit", "aot_eager"),
        ("bert", "eager"),
        ("encoder-padded", "eager"),
        ("einsum-bias", "eager"),
    ],
)
def test_autocast(name: str, lowering: str) -> None:
    case = without_dropout(MODELS[name]())
    with torch.autocast("cpu", torch.bfloat16):
        dense = case.model(*case.args, **case.kwargs)
        model = compiled(case.model, ratio=0.8, lowering=lowering)
        assert_same_form(model(*case.args, **case.kwargs), dense)
        found = gradients(case, model)
    assert all(grad.isfinite().all() for grad in found.values())
    assert all(found[name].dtype == p.dtype for name, p in case.model.named_parameters())


def test_under_autocast_tokens_are_compared_in_float32() -> None:
    case = timm_vit()
    with recording() as graphs, torch.autocast("cpu", torch.bfloat16):
        compiled(case.model, ratio=0.8, lowering="recording")(*case.args)
    matches = [n for n in graphs[0].graph.nodes if str(n.target) == "pitome.match.default"]
    assert len(matches) == 3
    for node in matches:
        assert node.args[0].meta["val"].dtype == node.args[1].meta["val"].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["vit", "bert", "encoder-padded", "einsum-bias"])
def test_half_weights(name: str, dtype: torch.dtype) -> None:
    case = without_dropout(MODELS[name]().to(dtype))
    model = compiled(case.model, ratio=0.8)
    assert_same_form(model(*case.args, **case.kwargs), case.model(*case.args, **case.kwargs))
    assert all(grad.isfinite().all() for grad in gradients(case, model).values())

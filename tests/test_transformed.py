"""What transform returns stays what it is when it is copied, pickled, saved, moved or sent."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import pitome_fx
from pitome_fx.testing import run_recorded, simulate
from tests.support.blocks import by_hand
from tests.support.models import Case, bert
from tests.support.oracle import (
    assert_close,
    assert_equal,
    assert_same_form,
    pitome_nodes,
    tensors,
    transformed,
)


class Tables(nn.Module):
    """A model with state of every kind: tied weights, buffers, a table that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.model = by_hand(depth=2).model
        self.head = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 5, bias=False))
        self.last = nn.Linear(5, 5, bias=False)
        self.last.weight = self.head[1].weight
        self.register_buffer("table", torch.randn(5), persistent=False)
        self.shift = torch.randn(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.model(x)) * self.table + self.shift)


def tables(training: bool = False) -> tuple[GraphModule, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 24, 24)
    module = Tables().train(training)
    return pitome_fx.transform(module, (x,), ratio=0.8, strict=True), x


def saved(module: Any) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": saved,
    "copy of a copy": lambda module: saved(copy.deepcopy(saved(copy.copy(module)))),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_like_the_original(how: str) -> None:
    module, x = tables()
    copied = COPIES[how](module)
    assert_equal(copied(x), module(x))
    assert copied.state_dict().keys() == module.state_dict().keys()
    assert copied.last.weight is copied.head._modules["1"].weight, "tied weights stay tied"
    shares = copied.last.weight is module.last.weight
    assert shares is (how == "copy")
    with pytest.raises((RuntimeError, AssertionError), match=r"shape|size|Guard|dimension"):
        copied(x[:, :-1])


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_copy_keeps_its_mode(how: str, training: bool) -> None:
    module, _ = tables(training)
    copied = COPIES[how](module)
    assert copied.training is training and copied.train(training) is copied
    outer = nn.Sequential(nn.Identity(), nn.Sequential(copied))
    outer.train(training)
    wanted = "eval" if training else "train"
    for switch in (copied, outer):
        with pytest.raises(RuntimeError, match=rf"Call \.{wanted}\(\) on the original model"):
            switch.train(not training)


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_trains_by_itself(how: str) -> None:
    """Its weights are the present ones, and what was frozen stays so."""
    module, x = tables()
    module.model.head.bias.requires_grad_(False)
    with torch.no_grad():
        module.last.weight += 1
    copied = COPIES[how](module)
    copied(x).sum().backward()
    assert copied.last.weight.grad is not None and copied.model.head.bias.grad is None
    assert (module.last.weight.grad is None) is (how != "copy")


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("build", [lambda: by_hand(depth=2), bert], ids=["vit", "bert"])
def test_moved_to_another_dtype(how: str, build: Callable[[], Case]) -> None:
    """It computes in that dtype; sizes of groups stay in the precision they were traced in."""
    case = build()
    module = COPIES[how](transformed(case, ratio=0.8)).double()
    case = COPIES[how](case).to(torch.float64)
    with torch.no_grad():
        output, assignments = run_recorded(module, *case.args, **case.kwargs)
        options = {"ratio": 0.8, "assignments": assignments}
        wanted = simulate(case.model, case.args, case.kwargs, **options)
    assert {x.dtype for x in tensors(output)} == {torch.float64}
    assert_close(output, wanted, 1e-6)


def test_state_dicts_load() -> None:
    module, x = tables()
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    restored = pickle.loads(pickle.dumps(module))
    assert not torch.equal(restored(x), other(x))
    restored.load_state_dict(other.state_dict())
    assert_equal(restored(x), other(x))


def test_a_model_that_returns_a_class_of_its_own(tmp_path: Path) -> None:
    """Loaded where that class, and this library, are not imported yet."""
    case = bert()
    module = transformed(case, ratio=0.8)
    assert_same_form(saved(module)(**case.kwargs), case.model(**case.kwargs))
    torch.save((module, dict(case.kwargs)), tmp_path / "bert.pt")
    code = (
        "import sys, torch; module, kwargs = torch.load(sys.argv[1], weights_only=False); "
        "output = module(**kwargs); print(type(output).__name__, output[0].sum().item())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bert.pt")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert told[0] == type(case.model(**case.kwargs)).__name__
    assert float(told[1]) == pytest.approx(module(**case.kwargs)[0].sum().item(), rel=1e-4)


def _answer(module: GraphModule, x: Tensor, answers: Any) -> None:
    with torch.no_grad():
        answers.put((module.training, module(x).tolist()))


def test_sent_to_another_process() -> None:
    module, x = tables()
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_answer, args=(module, x, answers))
    process.start()
    training, output = answers.get(timeout=240)
    process.join()
    assert training is False
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(output), module(x))


def test_weights_are_saved_once() -> None:
    module, _ = tables()
    weights = sum(x.numel() * x.element_size() for x in module.state_dict().values())
    bare, large = io.BytesIO(), io.BytesIO()
    torch.save(module, bare)
    wide = Case(nn.Sequential(nn.Linear(24, 24), nn.Linear(24, 20_000)), (torch.randn(2, 24),))
    with pytest.warns(pitome_fx.PitomeWarning, match="no attention"):
        torch.save(pitome_fx.transform(wide.model, wide.args), large)
    assert large.tell() < 1.2 * 4 * 25 * 20_000 + bare.tell() - weights


def test_a_changed_graph_stays_changed_or_is_not_pickled() -> None:
    module, x = tables()
    before = module(x)
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.gelu.default):
        node.target = torch.ops.aten.relu.default
    module.recompile()
    assert pitome_nodes(module, "match")
    assert not torch.equal(module(x), before)
    for how in ("copy", "deepcopy"):
        assert_equal(COPIES[how](module)(x), module(x))
    with pytest.raises(pickle.PicklingError, match="its graph was changed after transform"):
        pickle.dumps(module)


def test_a_model_that_cannot_be_exported_to_a_file_says_why() -> None:
    class Pair(tuple):
        pass

    torch.utils._pytree.register_pytree_node(
        Pair, lambda pair: (list(pair), None), lambda items, _: Pair(items)
    )

    class Returns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = by_hand(depth=2).model

        def forward(self, x: Tensor) -> Any:
            return Pair((self.model(x), x))

    module = pitome_fx.transform(Returns().eval(), (torch.randn(2, 24, 24),), ratio=0.8)
    assert isinstance(copy.deepcopy(module)(torch.randn(2, 24, 24)), Pair)
    with pytest.raises(pickle.PicklingError, match=r"torch\.export\.save fails.*original model"):
        pickle.dumps(module)

"""One verdict on a compiled function, however many graphs Dynamo makes of it."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

import pitome_fx
from pitome_fx import RefusedError
from tests.support.blocks import Block, sdpa
from tests.support.compiled import compiled, has_pitome_nodes, recording, told

BREAK = torch._dynamo.graph_break
DENSE = "the model runs dense"


class Parts(nn.Module):
    """Parts one after the other, with a graph break after the first and the second."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        # No loop: Dynamo gives up on a frame that breaks in one.
        x = self.parts[0](x)
        BREAK()
        if len(self.parts) > 1:
            x = self.parts[1](x)
        if len(self.parts) > 2:
            BREAK()
            x = self.parts[2](x)
        return x


class Breaking(nn.Module):
    """A graph break inside a module: the frames of those that call it have no graph."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.sin()
        BREAK()
        return y.cos()


class Plain(nn.Module):
    """No attention, in a module of the user's own: those of torch have no frames of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).relu()


class Causal(nn.Module):
    """Attention that may not merge."""

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)


class Loop(nn.Module):
    """Breaks in a loop: Dynamo compiles each block for itself, and no frame of this module."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
            BREAK()
        return x


def block() -> Block:
    return Block(24, 3, sdpa)


def tokens(count: int = 24) -> Tensor:
    return torch.randn(2, count, 24)


MERGING: dict[str, Callable[[], nn.Module]] = {
    "break after attention": lambda: Parts(block(), Plain()),
    "break before attention": lambda: Parts(Plain(), block()),
    "break between blocks": lambda: Parts(block(), block()),
    "breaks around a block": lambda: Parts(Plain(), block(), Plain()),
    "nothing after the break": lambda: Parts(block()),
    "some attention merges": lambda: Parts(Causal(), block()),
    "break in a nested module": lambda: nn.Sequential(block(), Breaking(), Plain()),
    "nested module before": lambda: nn.Sequential(Breaking(), block()),
    "breaks in a loop": lambda: Loop(Plain(), block(), Plain()),
}

DENSE_MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "one graph": (Plain, "no attention was found"),
    "two graphs": (lambda: Parts(Plain(), Plain()), "no attention was found"),
    "nothing after the break": (lambda: Parts(Plain()), "no attention was found"),
    "three graphs": (
        lambda: Parts(Plain(), Plain(), Plain()),
        "no attention was found",
    ),
    "a nested module": (lambda: nn.Sequential(Plain(), Breaking()), "no attention was found"),
    "a loop": (lambda: Loop(Plain(), Plain()), "no attention was found"),
    "attention first": (lambda: Parts(Causal(), Plain()), "causal attention"),
    "attention last": (lambda: Parts(Plain(), Causal()), "causal attention"),
}


@pytest.fixture(params=MERGING)
def merging(request: pytest.FixtureRequest) -> nn.Module:
    return MERGING[request.param]().eval()


@pytest.fixture(params=DENSE_MODELS)
def dense(request: pytest.FixtureRequest) -> tuple[nn.Module, str]:
    build, reason = DENSE_MODELS[request.param]
    return build().eval(), reason


def run(model: Any, inputs: Sequence[Tensor]) -> list[str]:
    """The warnings of calls without gradients."""
    with told() as messages, torch.no_grad():
        for x in inputs:
            model(x)
    return messages


def test_a_model_of_which_something_merges_says_nothing(merging: nn.Module) -> None:
    with recording() as graphs:
        model = compiled(merging, ratio=0.8, lowering="recording", strict=True)
        assert run(model, [tokens(), tokens()]) == []
    assert any(has_pitome_nodes(graph) for graph in graphs)


def test_nothing_to_merge_is_said_once(dense: tuple[nn.Module, str]) -> None:
    model, reason = dense
    merged = compiled(model, ratio=0.8, strict=False)
    messages = run(merged, [tokens(), tokens()])
    assert len(messages) == 1
    assert DENSE in messages[0] and reason in messages[0]


def test_strict_raises_in_every_call(dense: tuple[nn.Module, str]) -> None:
    """Before it returns where there are several graphs, at once where there is one."""
    model, reason = dense
    merged = compiled(model, ratio=0.8, strict=True)
    for _ in range(2):
        with pytest.raises((RefusedError, BackendCompilerFailed), match=reason) as failure:
            run(merged, [tokens()])
        error = failure.value
        assert isinstance(getattr(error, "inner_exception", error), RefusedError)


def test_one_graph_is_refused_before_it_runs() -> None:
    model = compiled(Plain(), strict=True)
    with pytest.raises(BackendCompilerFailed, match="no attention was found"):
        model(tokens())


def test_a_function_of_one_graph_is_refused_before_it_runs() -> None:
    part = Plain()
    with pytest.raises(BackendCompilerFailed, match="no attention was found"):
        compiled(lambda x: part(x) + 1, strict=True)(tokens())


def test_all_attention_is_in_the_reason() -> None:
    model = Parts(Causal(), Plain(), Causal())
    (message,) = run(compiled(model, strict=False), [tokens()])
    assert message.count("causal attention") == 2


def test_a_tail_compiled_in_a_later_call_says_nothing() -> None:
    """Its attention was merged before: what is new in a call is not all that runs in it."""

    class Tail(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.longer = block(), False

        def forward(self, x: Tensor) -> Tensor:
            x = self.block(x)
            BREAK()
            return x.sin() if self.longer else x.cos()

    model = Tail().eval()
    with recording() as graphs:
        merged = compiled(model, ratio=0.8, lowering="recording", strict=True)
        assert run(merged, [tokens()]) == []
        model.longer = True
        assert run(merged, [tokens()]) == []
        again = compiled(model, ratio=0.8, lowering="recording", strict=True)
        model.longer = False
        assert run(again, [tokens()]) == []
    assert len(graphs) >= 3


def test_a_new_shape_that_does_not_merge_is_said() -> None:
    """Every graph is compiled anew, and none merges."""
    model = Parts(block(), Plain()).eval()
    merged = torch.compile(
        model, backend="pitome", dynamic=False, options={"ratio": 0.8, "lowering": "eager"}
    )
    assert run(merged, [tokens(24)]) == []
    (message,) = run(merged, [tokens(6)])
    assert "too few tokens" in message
    assert run(merged, [tokens(20)]) == []


def test_models_and_options_have_verdicts_of_their_own() -> None:
    first, second = Parts(block(), Plain()).eval(), Parts(Plain(), Plain()).eval()
    assert run(compiled(first, ratio=0.8, strict=False), [tokens()]) == []
    assert len(run(compiled(second, ratio=0.8, strict=False), [tokens()])) == 1
    assert len(run(compiled(first, ratio=0.8, blocks=[], strict=False), [tokens()])) == 1


def test_a_call_that_raises_has_no_verdict() -> None:
    """The graphs that it did not get to may merge."""

    class Raising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.block, self.broken = Plain(), block(), True

        def forward(self, x: Tensor) -> Tensor:
            x = self.plain(x)
            BREAK()
            if self.broken:
                raise KeyError("of the user's own")
            return self.block(x)

    model = Raising().eval()
    merged = compiled(model, ratio=0.8, strict=True)
    with pytest.raises(KeyError, match="of the user's own"):
        run(merged, [tokens()])
    model.broken = False
    try:
        raise ValueError("being handled")
    except ValueError:
        assert run(merged, [tokens()]) == []


def test_a_verdict_is_given_while_another_error_is_handled() -> None:
    merged = compiled(Parts(Plain(), Plain()), strict=True)
    try:
        raise ValueError("being handled")
    except ValueError:
        with pytest.raises(RefusedError):
            run(merged, [tokens()])


def test_verdicts_go_with_their_models() -> None:
    import gc

    from pitome_fx.backends.verdict import _VERDICTS

    torch._dynamo.reset()
    gc.collect()
    before = len(_VERDICTS)
    model = Parts(block(), Plain()).eval()
    run(compiled(model, ratio=0.8), [tokens()])
    assert len(_VERDICTS) == before + 1
    del model
    torch._dynamo.reset()
    gc.collect()
    assert len(_VERDICTS) == before


def test_explain_is_one_verdict_too() -> None:
    model = MERGING["breaks around a block"]()
    with torch.no_grad():
        report = pitome_fx.explain(model, (tokens(),), ratio=0.8)
    assert (report.merged, len(report.blocks), report.notes) == (1, 1, ())

"""What fails at the first run of a merged program runs dense, once and for all, with the reason."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends import registry
from torch._dynamo.backends.common import aot_autograd
from torch.fx import GraphModule

from pitome_fx.backends.fallback import with_fallback
from tests.support.blocks import by_hand
from tests.support.compiled import compiled, has_pitome_nodes, told
from tests.support.models import Case
from tests.support.oracle import assert_close, assert_equal, expected


class Lazy:
    """A lowering named ``"lazy"`` that does its work when it is called, and can fail there."""

    def __init__(self, error: BaseException | None = None, after: bool = False) -> None:
        self.error, self.after = error, after
        self.runs: list[str] = []

    def __call__(self, graph: GraphModule, example_inputs: Any) -> Callable[..., Any]:
        kind = "merged" if has_pitome_nodes(graph) else "dense"

        def run(*args: Any) -> Any:
            self.runs.append(kind)
            result = graph(*args) if self.after else None
            if kind == "merged" and self.error is not None:
                raise self.error
            return result if self.after else graph(*args)

        return run

    @contextmanager
    def registered(self) -> Iterator[Lazy]:
        torch._dynamo.register_backend(self, name="lazy")
        try:
            yield self
        finally:
            del registry._BACKENDS["lazy"], registry._COMPILER_FNS["lazy"]


def lazily(model: nn.Module, **options: Any) -> Any:
    return compiled(model, **{"ratio": 0.8, "lowering": "lazy", "strict": False, **options})


def small() -> Case:
    return by_hand(depth=2).to(torch.float64)


@pytest.mark.parametrize("dynamic", [False, True])
def test_runs_dense_from_then_on(dynamic: bool) -> None:
    case = small()
    with Lazy(RuntimeError("no such kernel")).registered() as lazy, torch.no_grad():
        options = {"ratio": 0.8, "lowering": "lazy"}
        model = torch.compile(case.model, backend="pitome", options=options, dynamic=dynamic)
        with told() as messages:
            outputs = [model(*case.args) for _ in range(3)]
    for output in outputs:
        assert_equal(output, case.model(*case.args))
    assert len(messages) == 1
    assert "runs dense" in messages[0] and "no such kernel" in messages[0]
    assert lazy.runs.count("merged") == 1


def test_strict_raises_it() -> None:
    case = small()
    error = RuntimeError("no such kernel")
    with Lazy(error).registered(), torch.no_grad(), pytest.raises(RuntimeError) as failure:
        lazily(case.model, strict=True)(*case.args)
    assert failure.value is error


def test_a_first_run_that_works_is_merged() -> None:
    case = small()
    with Lazy().registered() as lazy, torch.no_grad(), told() as messages:
        model = lazily(case.model)
        outputs = [model(*case.args) for _ in range(2)]
    for output in outputs:
        assert_close(output, expected(case, ratio=0.8), 1e-9)
    assert lazy.runs == ["merged", "merged"] and messages == []


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(), torch.OutOfMemoryError("full"), MemoryError()]
)
def test_what_says_nothing_of_the_program_is_raised(error: BaseException) -> None:
    case = small()
    with Lazy(error).registered() as lazy, torch.no_grad(), pytest.raises(type(error)):
        lazily(case.model)(*case.args)
    assert lazy.runs == ["merged"]


class Checking(nn.Module):
    """A model that looks a token up, which fails where there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = by_hand(pool="none", depth=2).model

    def forward(self, x: Tensor, at: Tensor) -> Tensor:
        return self.inner(x).index_select(1, at)


def test_an_error_of_the_model_is_its_own() -> None:
    """No word of a dense run; and the next call, with inputs in order, merges."""
    case = small()
    model = Checking().double().eval()
    merged = compiled(model, ratio=0.8, lowering="eager", strict=False)
    with told() as messages, torch.no_grad():
        with pytest.raises((IndexError, RuntimeError), match="out of"):
            merged(case.args[0], torch.tensor([99]))
        output = merged(case.args[0], torch.tensor([3]))
    assert messages == []
    wanted = expected(Case(model, (case.args[0], torch.tensor([3]))), ratio=0.8)
    assert_close(output, wanted, 1e-9)


class Writing(nn.Module):
    """Counts its calls, keeps statistics, writes to its input, and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(24)
        self.inner = by_hand(depth=2).model
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, log: Tensor) -> Tensor:
        self.calls.add_(1)
        log.mul_(2)
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return nn.functional.dropout(self.inner(x), 0.5, training=True)


@pytest.mark.parametrize("lowering", ["eager", "aot_eager"])
def test_what_the_failed_run_wrote_is_put_back(lowering: str) -> None:
    """A run that fails at its end has written everything already."""

    torch.manual_seed(0)
    model = Writing().train()
    x, log = torch.randn(2, 24, 24), torch.ones(3)
    merges = []

    def backend(graph: GraphModule, inputs: Any) -> Any:
        run = graph.forward
        if lowering != "eager":
            run = torch._dynamo.lookup_backend(lowering)(graph, inputs)
        if not has_pitome_nodes(graph):
            return run

        def fail(*args: Any) -> Any:
            merges.append(run(*args))
            raise RuntimeError("at the very end")

        return fail

    torch._dynamo.register_backend(backend, name="late")
    try:
        torch.manual_seed(1)
        with told() as messages:
            output = compiled(model, ratio=0.8, lowering="late", strict=False)(x, log)
    finally:
        del registry._BACKENDS["late"], registry._COMPILER_FNS["late"]
    assert len(messages) == len(merges) == 1
    torch.manual_seed(0)
    again = Writing().train()
    other = torch.ones(3)
    torch.randn(2, 24, 24)
    torch.manual_seed(1)
    wanted = again(x, other)
    assert_equal(output, wanted)
    assert_equal(log, other)
    assert_equal(list(model.buffers()), list(again.buffers()))


def test_lists_of_inputs_that_the_failed_run_emptied() -> None:
    def merged(given: list[Tensor]) -> Tensor:
        given.clear()
        raise RuntimeError("after the inputs were taken")

    said: list[Exception] = []
    run = with_fallback(merged, [], lambda: lambda given: given[0] + 1, said.append)
    assert float(run([torch.ones(())])) == 2
    assert len(said) == 1


@pytest.mark.parametrize("fails", [False, True])
def test_after_the_first_run_nothing_of_the_other_program_is_kept(fails: bool) -> None:
    class Program:
        def lower(self) -> Callable[..., Any]:
            return lambda x: -x

        def say(self, error: Exception) -> None: ...

    def merged(x: int) -> int:
        if fails:
            raise RuntimeError("no such kernel")
        return x

    program = Program()
    alive = weakref.ref(program)
    run = with_fallback(merged, [], program.lower, program.say)
    del program
    gc.collect()
    assert alive() is not None
    assert run(1) == (-1 if fails else 1)
    gc.collect()
    assert alive() is None


def test_threads_that_run_first_at_once() -> None:
    """Each has its answer, none waits for another (they may exchange tensors while they run)."""
    inside = threading.Barrier(2, timeout=30)

    def merged(x: int) -> int:
        inside.wait()
        if x == 1:
            raise RuntimeError("not in this thread")
        return x

    said: list[Exception] = []
    run = with_fallback(merged, [], lambda: lambda x: -x, said.append)
    results: dict[int, int | Exception] = {}

    def work(x: int) -> None:
        try:
            results[x] = run(x)
        except RuntimeError as error:
            results[x] = error

    threads = [threading.Thread(target=work, args=(x,)) for x in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[2] == 2
    assert results[1] == -1 or isinstance(results[1], RuntimeError)


def test_a_backward_pass_that_fails_says_what_to_do() -> None:
    case = small()

    def backend(graph: GraphModule, inputs: Any) -> Any:
        def run(graph: GraphModule, inputs: Any) -> Any:
            return make_boxed_func(graph.forward)

        def refuse(graph: GraphModule, inputs: Any) -> Any:
            def fail(*args: Any) -> Any:
                raise RuntimeError("no such kernel")

            return make_boxed_func(fail)

        return aot_autograd(fw_compiler=run, bw_compiler=refuse)(graph, inputs)

    torch._dynamo.register_backend(backend, name="oneway")
    try:
        model = compiled(case.model, ratio=0.8, lowering="oneway", strict=False)
        with pytest.raises(RuntimeError, match="no such kernel") as failure:
            model(*case.args).sum().backward()
    finally:
        del registry._BACKENDS["oneway"], registry._COMPILER_FNS["oneway"]
    assert any("compile it with ratio=1.0" in note for note in failure.value.__notes__)

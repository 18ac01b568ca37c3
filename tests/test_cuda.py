"""What only a GPU shows: its kernels, CUDA graphs, half types, its random state.

The laws themselves hold on any device: ``make cuda`` runs them there too.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import pitome_fx
from pitome_fx.backends.fallback import with_fallback
from pitome_fx.testing import run_recorded, simulate
from tests.support.blocks import by_hand
from tests.support.compiled import compiled, told
from tests.support.models import Case, bert, encoder, timm_vit
from tests.support.oracle import (
    assert_close,
    assert_equal,
    assert_keeps_the_law,
    assert_same_form,
    tensors,
    transformed,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")

CASES: dict[str, Callable[[], Case]] = {
    "vit": lambda: timm_vit(depth=2),
    "bert": bert,
    "encoder-padded": lambda: encoder(padded=True),
    "biases": lambda: by_hand(depth=2),
}


PACKAGED_DENSE = """
import torch
model, x = torch.nn.Linear(4, 4).cuda(), torch.randn(2, 4, device="cuda")
program = torch.export.export(model, (x,))
package = torch._inductor.aoti_compile_and_package(program, package_path="{}")
torch._inductor.aoti_load_package(package)(x)
"""


@pytest.fixture(autouse=True)
def _exact_products() -> Iterator[None]:
    """Products of float32 in float32, whatever an earlier test chose."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def on_gpu(case: Case, dtype: torch.dtype = torch.float32) -> Case:
    return case.to(dtype, "cuda")


@pytest.mark.parametrize("name", CASES)
def test_rewritten_is_simulated(name: str) -> None:
    done = assert_keeps_the_law(on_gpu(CASES[name](), torch.float64), ratio=0.8)
    assert all(x.is_cuda for x in (*tensors(done.output), *done.assignments))


@pytest.mark.parametrize("name", CASES)
def test_the_gpu_decides_as_the_cpu_does(name: str) -> None:
    """In float64, where no two tokens are equally near."""
    case = CASES[name]().to(torch.float64, "cpu")
    with torch.no_grad():
        there, _ = run_recorded(transformed(case, ratio=0.8), *case.args, **case.kwargs)
        there = [x.clone() for x in tensors(there)]
        case = on_gpu(case, torch.float64)
        here, _ = run_recorded(transformed(case, ratio=0.8), *case.args, **case.kwargs)
    assert_close([x.cpu() for x in tensors(here)], there, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune-no-cudagraphs"])
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_inductor_computes_what_is_simulated(name: str, mode: str) -> None:
    case = on_gpu(CASES[name]())
    with torch.no_grad():
        graph = transformed(case, ratio=0.8)
        _, assignments = run_recorded(graph, *case.args, **case.kwargs)
        wanted = simulate(case.model, case.args, case.kwargs, ratio=0.8, assignments=assignments)
        model = compiled(
            case.model, ratio=0.8, lowering="inductor", lowering_options={"mode": mode}
        )
        with told() as messages:
            # CUDA graphs are recorded at the second call and replayed from the third on.
            outputs = [clone(model(*case.args, **case.kwargs)) for _ in range(4)]
    assert messages == []
    for output in outputs:
        assert_same_form(output, case.model(*case.args, **case.kwargs))
        assert_close(output, wanted, 1e-5)


@pytest.mark.slow
def test_cuda_graphs_are_replayed_in_reduce_overhead() -> None:
    """As much as they are without the backend: nothing that merging adds keeps them away."""
    from torch._dynamo.utils import counters

    case = on_gpu(timm_vit(depth=2))
    skips = {}
    for backend in ("inductor", "pitome"):
        torch._dynamo.reset()
        counters.clear()
        chosen: Any = {"mode": "reduce-overhead"}
        if backend == "pitome":
            mode = {"mode": "reduce-overhead"}
            chosen = {"options": {"ratio": 0.8, "strict": True, "lowering_options": mode}}
        model = torch.compile(case.model, backend=backend, **chosen)
        with torch.no_grad():
            for _ in range(3):
                clone(model(*case.args))
        skips[backend] = counters["inductor"]["cudagraph_skips"]
    assert skips == {"inductor": 0, "pitome": 0}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["vit", "bert", "biases"])
def test_half_types_are_as_near_as_the_dense_model_is(name: str, dtype: torch.dtype) -> None:
    """To the same merges in float64, with the kernels that CUDA has for half types."""
    case = on_gpu(CASES[name](), dtype)
    with torch.no_grad():
        graph = transformed(case, ratio=0.8)
        output, assignments = run_recorded(graph, *case.args, **case.kwargs)
        inductor = compiled(case.model, ratio=0.8, lowering="inductor")(*case.args, **case.kwargs)
        dense = case.model(*case.args, **case.kwargs)
        assert_same_form(output, dense)
        assert_same_form(inductor, dense)
        wide = case.to(torch.float64)
        exact = wide.model(*wide.args, **wide.kwargs)
        wanted = simulate(wide.model, wide.args, wide.kwargs, ratio=0.8, assignments=assignments)
    rounding = max(map(distance, tensors(dense), tensors(exact)))
    for found, right in zip(tensors(output), tensors(wanted), strict=True):
        assert distance(found, right) <= 4 * rounding


@pytest.mark.parametrize(
    "kernel", [SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
)
def test_every_kernel_that_takes_a_bias_takes_the_sizes(kernel: SDPBackend) -> None:
    """Numbers of tokens that are no multiple of eight included."""
    case = on_gpu(by_hand(depth=2), torch.float16)
    with torch.no_grad():
        graph = transformed(case, ratio=0.77)
        with sdpa_kernel(SDPBackend.MATH):
            wanted, _ = run_recorded(graph, *case.args)
        try:
            with sdpa_kernel(kernel):
                case.model(*case.args)
        except RuntimeError as refusal:
            pytest.skip(f"this GPU or torch has no such kernel: {refusal}")
        with sdpa_kernel(kernel):
            found, _ = run_recorded(graph, *case.args)
    assert max(map(distance, tensors(found), tensors(wanted))) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("lowering", ["eager", "inductor"])
def test_training_under_autocast(lowering: str) -> None:
    """Merging exact copies leaves gradients as near to those in float32 as the dense model's are.

    Of other tokens half precision may merge others, and nothing follows for the gradients.
    """
    model = by_hand(depth=2, pool="mean").model.cuda()
    x = torch.randn(2, 12, 24, device="cuda").repeat_interleave(2, 1)

    def gradient(run: Any, autocast: bool) -> list[Tensor]:
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = run(x).float().square().mean()
        loss.backward()
        return [x.grad.clone() for x in model.parameters() if x.grad is not None]

    exact, dense = gradient(model, False), gradient(model, True)
    # Neighbours are copies, which ToMe compares; of 24 tokens 20 are left.
    merged = compiled(model, ratio=0.83, algorithm="tome", blocks=[0], lowering=lowering)
    found = gradient(merged, True)
    assert all(bool(x.isfinite().all()) for x in found)
    rounding = max(map(distance, dense, exact))
    assert max(map(distance, found, exact)) <= 4 * rounding


def test_a_failing_first_run_puts_the_random_state_back() -> None:
    """So that the dense run draws what it would have drawn."""
    x = torch.ones(8, device="cuda")

    def failing(x: Tensor) -> Tensor:
        torch.rand(100, device="cuda")
        raise RuntimeError("no such kernel")

    said: list[Exception] = []
    call = with_fallback(failing, [], lambda: nn.functional.dropout, said.append)
    torch.manual_seed(3)
    found = call(x)
    torch.manual_seed(3)
    assert_equal(found, nn.functional.dropout(x))
    assert len(said) == 1


@pytest.mark.slow
@pytest.mark.parametrize("form", ["aten", "portable"])
def test_ahead_of_time(form: str, tmp_path: Path) -> None:
    """Exported from the GPU, saved and loaded."""
    case = on_gpu(by_hand(pool="none", depth=2))
    program = torch.export.export(case.model, case.args)
    merged = pitome_fx.transform(program, ratio=0.8, strict=True, form=form)
    assert isinstance(merged, torch.export.ExportedProgram)
    with torch.no_grad():
        wanted = transformed(case, ratio=0.8)(*case.args)
        torch.export.save(merged, tmp_path / "model.pt2")
        loaded = torch.export.load(tmp_path / "model.pt2").module()(*case.args)
    assert_close(loaded, wanted, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["aten", "portable"])
def test_packaged_by_aot_inductor(form: str, tmp_path: Path) -> None:
    """Wherever torch can load the package of a dense model.

    On an H100 with torch 2.11, doing that ends Python with a segmentation fault.
    """
    script = tmp_path / "dense.py"
    script.write_text(PACKAGED_DENSE.format(tmp_path / "dense.pt2"))
    dense = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    if dense.returncode == -signal.SIGSEGV:
        pytest.skip("torch crashes when it loads what AOTInductor makes of a linear layer")
    assert dense.returncode == 0, dense.stderr
    case = on_gpu(by_hand(pool="none", depth=2))
    program = torch.export.export(case.model, case.args)
    merged = pitome_fx.transform(program, ratio=0.8, strict=True, form=form)
    with torch.no_grad():
        wanted = transformed(case, ratio=0.8)(*case.args)
        package = torch._inductor.aoti_compile_and_package(
            merged, package_path=str(tmp_path / "package.pt2")
        )
        found = torch._inductor.aoti_load_package(package)(*case.args)
    assert_close(found, wanted, 1e-5)


def test_what_is_transformed_on_the_cpu_moves() -> None:
    """``transform`` first, ``.cuda()`` then."""
    case = by_hand(depth=2).to(torch.float64, "cpu")
    with torch.no_grad():
        graph = transformed(case, ratio=0.8)
        wanted = graph(*case.args)
        found = graph.cuda()(*(x.cuda() for x in case.args))
    assert_close([x.cpu() for x in tensors(found)], tensors(wanted), 1e-9)


def test_peak_memory_is_below_the_dense_models() -> None:
    model = by_hand(depth=4).model.cuda()
    x = torch.randn(64, 24, 24, device="cuda")
    peak = {}
    with torch.no_grad():
        for name, run in (("dense", model), ("merged", transformed(Case(model, (x,)), ratio=0.7))):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run(x.cuda())
            torch.cuda.synchronize()
            peak[name] = torch.cuda.max_memory_allocated() - before
    assert peak["merged"] <= 1.1 * peak["dense"]


def clone(output: Any) -> Any:
    """A copy, before the next run of a CUDA graph writes over it."""
    return pytree.tree_map_only(Tensor, Tensor.clone, output)


def distance(found: Tensor, wanted: Tensor) -> float:
    """Relative to the largest value."""
    found, wanted = found.double(), wanted.double()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))

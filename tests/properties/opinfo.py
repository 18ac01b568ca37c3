"""PyTorch's own samples of every op, with each tensor merged where a dimension allows it.

``python -m tests.properties.opinfo [NAME…]`` sweeps all ops, or those named, prints a line for
each, and writes what came of all into docs/testing.md. What was done is kept in .cache/opinfo, so
that a sweep that was stopped goes on; ``make clean`` begins anew.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import GraphModule

from tests.properties.anywhere import Place, captured, difference, places, seeded, tried_anywhere

ROOT = Path(__file__).parents[2]
KEPT, DOCS = ROOT / ".cache" / "opinfo", ROOT / "docs" / "testing.md"
BEGIN, END = "<!-- opinfo -->\n", "<!-- end of opinfo -->\n"
OPEN = {
    **dict.fromkeys(
        ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
        "whatever lies in memory",
    ),
    **dict.fromkeys(
        ("pca_lowrank", "svd_lowrank"), "equal tokens leave some singular vectors open"
    ),
}
"""Ops whose result nothing determines, and why."""

DROPS = ("dropout", "alpha_dropout", "feature_dropout", "scaled_dot_product_attention")
"""Ops that may drop: of merged tokens fewer are drawn for, and only expectations agree."""

LARGEST = 2000
"""Elements of a sample; larger ones say nothing more and take long."""


def ops() -> dict[str, Any]:
    """All OpInfos by name and variant."""
    from torch.testing._internal.common_methods_invocations import op_db

    return {f"{op.name}.{op.variant_test_name}".rstrip("."): op for op in op_db}


def sweep(name: str, samples: int | None = None) -> Counter[str]:
    """Try the samples of an op (the first ``samples``); what came of them, counted."""
    op = ops()[name]
    found: Counter[str] = Counter()
    generator = torch.Generator().manual_seed(0)
    supported = op.supported_dtypes("cpu")
    wanted = (torch.float64, torch.complex128, torch.int64, torch.bool)
    dtype = next((d for d in wanted if d in supported), None)
    if name in OPEN:
        return Counter({f"skipped: {OPEN[name]}": 1})
    if dtype is None:
        return Counter({"skipped: no dtype of 64 bits": 1})
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, sample in enumerate(op.sample_inputs("cpu", dtype, requires_grad=False)):
            if i == samples:
                break
            found["samples"] += 1
            for what in _sample(op.op, sample, generator):
                found[what] += 1
    return found


def _sample(function: Callable[..., Any], sample: Any, generator: torch.Generator) -> Iterator[str]:
    flat, spec = pytree.tree_flatten(((sample.input, *sample.args), sample.kwargs))
    tensors = [x.detach() for x in flat if isinstance(x, Tensor)]

    def f(*given: Tensor) -> Any:
        feed = iter(given)
        leaves = [next(feed) if isinstance(x, Tensor) else x for x in flat]
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return function(*args, **kwargs)

    at = _some(tensors)
    reason = _unfit(tensors, at)
    if reason:
        yield f"skipped: {reason}"
        return
    try:
        expected = seeded(f, tensors)
        program = captured(f, tensors)
    except Exception as error:
        yield f"skipped: cannot be traced ({type(error).__name__})"
        return
    if program.writes:
        yield "skipped: writes to its inputs"
        return
    if _drops(program.graph, tensors):
        yield "skipped: dropout"
        return
    if not any(isinstance(x, Tensor) for x in pytree.tree_leaves(expected)):
        yield "skipped: no tensor comes out"
        return
    for place in at:
        try:
            # The samples of what draws set a seed of their own, which no trace holds.
            dense = program.graph
            tried = next(tried_anywhere(program, dense, tensors, [place], generator))
        except Exception as error:
            yield f"FAILED at {place}: {type(error).__name__}: {error}"
            continue
        if tried.refused:
            yield "skipped: the op cannot take equal tokens"
            continue
        if tried.problem:
            yield f"FAILED at {place}: {tried.problem}"
        yield "lifted" if tried.lifted else "acted"


def _drops(graph: GraphModule, tensors: list[Tensor]) -> bool:
    """Does another seed drop something else?"""
    names = {
        str(node.target).split(".")[1] for node in graph.graph.nodes if "." in str(node.target)
    }
    if names.isdisjoint(DROPS):
        return False
    torch.manual_seed(1)
    return bool(difference(graph(*tensors), seeded(graph, tensors)))


def _some(tensors: list[Tensor]) -> list[Place]:
    """Each operand along each dimension, by the items of one other dimension or of none."""
    seen: set[tuple[int, int, bool]] = set()
    found = []
    for place in places(tensors):
        key = (place.operand, place.dim, place.batch is None)
        if key not in seen:
            seen.add(key)
            found.append(place)
    return found


def _unfit(tensors: list[Tensor], at: list[Place]) -> str:
    if any(x.layout != torch.strided or x.is_quantized for x in tensors):
        return "sparse or quantised"
    if any(x.numel() > LARGEST for x in tensors):
        return "large"
    return "" if at else "nothing to merge"


def kept(name: str, samples: int | None) -> Counter[str]:
    """``sweep``, or what an earlier run found."""
    file = KEPT / f"{name}.json"
    if not file.exists():
        torch.set_num_threads(1)
        found = sweep(name, samples)
        KEPT.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1))
    return Counter(json.loads(file.read_text()))


def main() -> int:
    """Sweep, print, and write the table."""
    parser = argparse.ArgumentParser(description="merged tensors in the samples of every op")
    parser.add_argument("names", nargs="*", help="parts of names of ops (default: all)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--samples", type=int, help="of each op, at most (default: all)")
    args = parser.parse_args()
    names: list[str] = args.names
    chosen = [name for name in ops() if not names or any(part in name for part in names)]
    results: dict[str, Counter[str]] = {}
    with ProcessPoolExecutor(args.jobs) as pool:
        running = {pool.submit(kept, name, args.samples): name for name in chosen}
        for done in as_completed(running):
            name = running[done]
            results[name] = done.result()
            failed = sum(n for what, n in results[name].items() if what.startswith("FAILED"))
            print(
                f"{len(results)}/{len(chosen)} {name}: {'FAILED' if failed else 'ok'}", flush=True
            )
    failures = {name: [w for w in r if w.startswith("FAILED")] for name, r in results.items()}
    for name, what in failures.items():
        for line in what:
            print(f"{name}: {line}")
    if not names:
        before, rest = DOCS.read_text().split(BEGIN)
        DOCS.write_text(before + BEGIN + table(results) + END + rest.split(END)[1])
    return 1 if any(failures.values()) else 0


def table(results: dict[str, Counter[str]]) -> str:
    """The sums over all ops, in Markdown."""
    total: Counter[str] = sum(results.values(), Counter())
    failed = sum(n for what, n in total.items() if what.startswith("FAILED"))
    rows = {
        "ops": len(results),
        "samples": total["samples"],
        "operands tried, each along each dimension": total["acted"] + total["lifted"],
        "the rules acted on merged tokens": total["acted"],
        "tokens were unmerged": total["lifted"],
        **{what: n for what, n in sorted(total.items()) if what.startswith("skipped")},
        "failed": failed,
    }
    lines = [f"| {what} | {n} |" for what, n in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())

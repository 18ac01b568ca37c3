"""How often rounding decides who merges: engines against eager float64, on real photographs.

Two tokens may be almost as good a partner as one another. Where they are closer than rounding,
engines that sum in another order may choose otherwise, and the outputs differ by what that choice
is worth. Counted for DINOv2-S/14 with its real weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.fx import GraphModule

# A script sees its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pitome_fx
from benchmarks.study.models import as_images, dino
from benchmarks.study.sources import photographs
from pitome_fx.options import Form
from pitome_fx.passes.dissolve.dissolving import dissolve

Run = Callable[..., Any]


class ClassToken(torch.nn.Module):
    """DINOv2-S/14, of which only the class token is read: (B, 3, 224, 224) → (B, 384)."""

    def __init__(self) -> None:
        super().__init__()
        self.model = dino(224)

    def forward(self, images: Tensor) -> Tensor:
        token: Tensor = self.model(images)[0]
        return token


def telling(model: torch.nn.Module, x: Tensor, **options: Any) -> GraphModule:
    """The merged model, which also returns the tokens moved and their targets at every merge."""
    graph = pitome_fx.transform(model, (x,), form="pitome", **options)
    (output,) = graph.graph.find_nodes(op="output")
    flat = [output.args[0]] if isinstance(output.args[0], torch.fx.Node) else [*output.args[0]]
    for node in graph.graph.find_nodes(
        op="call_function", target=torch.ops.pitome.match.default, sort=True
    ):
        parts = {user.args[1]: user for user in node.users}
        flat += [parts[1], parts[2]]
    output.args = (tuple(flat),)
    graph.graph.set_codegen(torch.fx.CodeGen())
    graph.graph.lint()
    graph.recompile()
    return graph


def decided(groups: list[Tensor], item: int) -> list[set[tuple[int, int]]]:
    """Who went where, (moved, target), at every merge."""
    merges = zip(groups[::2], groups[1::2], strict=True)
    return [set(zip(m[item].tolist(), t[item].tolist(), strict=True)) for m, t in merges]


class Engine:
    """The telling graph, as one engine runs it."""

    def __init__(self, name: str, run: Run) -> None:
        self.name, self.run = name, run
        self.flipped = self.wrong = 0
        self.changes: list[float] = []

    def judge(self, x: Tensor, wanted: Tensor, groups: list[Tensor]) -> None:
        """Compare a batch with what float64 computed of it, and whom it merged."""
        with torch.no_grad():
            output, *flat = self.run(x)
        for item in range(len(x)):
            pairs = zip(decided(flat, item), decided(groups, item), strict=True)
            # What follows the first merge that differs, differs by consequence.
            first = next(((a, b) for a, b in pairs if a != b), None)
            if first is not None:
                a, b = first
                self.flipped += 1
                self.wrong += len(b - a)
                self.changes.append(
                    float((output[item] - wanted[item]).norm() / wanted[item].norm())
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratio", type=float, default=0.9, help="tokens kept per block")
    parser.add_argument("--algorithm", default="pitome-mean", choices=sorted(pitome_fx.ALGORITHMS))
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=list(ENGINES))
    args = parser.parse_args()
    console = Console()
    photos = as_images(photographs(), 224)
    options = {"ratio": args.ratio, "algorithm": args.algorithm}
    batch = photos[:4]
    exact = telling(ClassToken().double(), batch.double(), **options)
    graph = telling(ClassToken(), batch, **options)
    engines = [Engine(name, ENGINES[name](graph, batch)) for name in args.engines]
    with console.status("running"):
        for x in photos.split(4):
            with torch.no_grad():
                wanted, *groups = exact(x.double())
            for engine in engines:
                engine.judge(x, wanted, groups)
    merges, moved = len(groups) // 2, sum(len(moved[0]) for moved in groups[::2])
    table = Table(title=f"{len(photos)} photographs, {merges} merges of {moved} tokens in each")
    for column in (
        "engine",
        "photographs with a flip",
        "pairs that differ first",
        "output, relative",
    ):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for engine in engines:
        changes = sorted(engine.changes)
        spread = f"{changes[0]:.1e} – {changes[-1]:.1e}" if changes else "–"
        table.add_row(engine.name, f"{engine.flipped} of {len(photos)}", str(engine.wrong), spread)
    console.print(table)


def _in_form(form: Form) -> Callable[[GraphModule, Tensor], GraphModule]:
    def dissolved(graph: GraphModule, x: Tensor) -> GraphModule:
        inputs = [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")]
        return dissolve(graph, inputs, form)

    return dissolved


def _inductor(graph: GraphModule, x: Tensor) -> Run:
    return torch.compile(_in_form("aten")(graph, x), backend="inductor", dynamic=False)


def _openvino(precision: str) -> Callable[[GraphModule, Tensor], Run]:
    config = {"INFERENCE_PRECISION_HINT": precision}

    def compiled(graph: GraphModule, x: Tensor) -> Run:
        import openvino

        program = torch.export.export(_in_form("portable")(graph, x), (x,))
        model = openvino.compile_model(openvino.convert_model(program), "CPU", config)

        def run(x: Tensor) -> list[Tensor]:
            return [torch.from_numpy(y) for y in model(x.numpy()).to_tuple()]

        return run

    return compiled


ENGINES: dict[str, Callable[[GraphModule, Tensor], Run]] = {
    "eager": lambda graph, x: graph,
    "eager, portable form": _in_form("portable"),
    "inductor": _inductor,
    "openvino f32": _openvino("f32"),
    "openvino bf16": _openvino("bf16"),
}


if __name__ == "__main__":
    main()

"""A model in parts: its blocks and what is around them, and what each of them costs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pitome_fx.passes.pipeline import Outcome
from pitome_fx.passes.plan.flops import FlopCounter


class Parts:
    """The parts of one graph, each a module: every path of a module belongs to one of them.

    A block is the largest module that holds no two attentions of one name (so that a decoder's
    self-attention and cross-attention are in one block); never the model itself. What is in no
    block belongs to the largest module that holds none.

    Args:
        sites: paths of the modules that attend.
    """

    def __init__(self, sites: Iterable[str]) -> None:
        modules = set(sites)
        self.blocks = {_block(module, modules) for module in modules}

    def of(self, path: str) -> str:
        """The part that a module belongs to."""
        held = [block for block in self.blocks if is_within(path, block)]
        if held:
            return max(held, key=len)
        alone = (above for above in _from_the_top(path) if not self._holds_a_block(above))
        return next(alone, path)

    def _holds_a_block(self, path: str) -> bool:
        return any(is_within(block, path) for block in self.blocks)


def _block(module: str, modules: Collection[str]) -> str:
    """The largest module around one that attends in which no attention has a namesake."""
    path = module
    while above := path.rpartition(".")[0]:
        names = [other.rpartition(".")[2] for other in modules if is_within(other, above)]
        if len(names) != len(set(names)):
            break
        path = above
    return path


def is_within(path: str, module: str) -> bool:
    """Is it that module, or a part of it?"""
    return not module or path == module or path.startswith(f"{module}.")


def _from_the_top(path: str) -> Iterable[str]:
    """The modules around one, from the largest, without the model itself."""
    names = path.split(".")
    return (".".join(names[: i + 1]) for i in range(len(names)))


@dataclass(frozen=True)
class Cost:
    """FLOPs of one part of one graph; they add up to those of the report."""

    graph: int
    part: str
    before: int
    after: int


def costs(outcomes: Iterable[Outcome]) -> list[Cost]:
    """FLOPs of every part that has any, in the order in which they run."""
    counter = FlopCounter()
    found: list[Cost] = []
    for graph, outcome in enumerate(outcomes):
        parts = parts_of(outcome)
        before = counter.by_module(outcome.program.graph)
        rewritten = outcome.rewritten
        after = before if rewritten is None else counter.by_module(rewritten.graph)
        totals: dict[str, list[int]] = {}
        for i, flops in enumerate((before, after)):
            for module, count in flops.items():
                totals.setdefault(parts.of(module), [0, 0])[i] += count
        found += [Cost(graph, part, *total) for part, total in totals.items() if any(total)]
    return found


def parts_of(outcome: Outcome) -> Parts:
    """The parts of a graph."""
    return Parts(site.module for site in outcome.detection.sites)

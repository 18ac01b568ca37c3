"""What the drawn programs are like: a generator that draws only refusals proves nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import event

from tests.properties import description as d
from tests.properties import routing, several
from tests.properties.attention import UNUSUAL
from tests.properties.mixing import ALIEN
from tests.properties.trial import Trial

OTHER = routing.KINDS.keys() | several.KINDS.keys()
"""Mixers that are neither known nor alien."""


def traits(program: d.Program, trial: Trial) -> list[str]:
    """What can be said of a program and of what became of it."""
    found = ["merges"] if trial.merges else []
    alien = bool(set(program.mixers()) & ALIEN.keys())
    found += ["alien op"] if alien else []
    found += ["merges, alien op"] if alien and trial.merges else []
    found += ["writes in place"] if program.writes() else []
    found += ["padding"] if program.hidden else []
    found += ["two streams"] if program.other else []
    found += ["lends"] if program.lends() else []
    found += ["routes or has several operands"] if set(program.mixers()) & OTHER else []
    found += ["frames"] if any(isinstance(step, d.Frames) for step in program.steps) else []
    found += ["residual of another spelling"] if _spelled(program) else []
    found += ["unusual attention"] if _unusual(program) else []
    found += ["two merges or more"] if trial.merges > 1 else []
    rewritten = trial.outcome.rewritten
    if rewritten is not None and any(event.node.op != "output" for event in rewritten.lifts):
        found.append("lifts inside")
    if rewritten is not None and rewritten.projections:
        found.append("projects")
    return found


def _spelled(program: d.Program) -> bool:
    steps = [step.step if isinstance(step, d.Frames) else step for step in program.steps]
    return any(isinstance(step, d.Residual) and step.spelling != "add" for step in steps)


def _unusual(program: d.Program) -> bool:
    return any(a.spelling in UNUSUAL or a.shared != "none" for a in program.attentions())


def tell(program: d.Program, trial: Trial) -> None:
    """Hypothesis events: ``pytest --hypothesis-show-statistics`` prints their shares."""
    for trait in traits(program, trial):
        event(trait)


@dataclass
class Shares:
    """Counts of traits over many programs."""

    programs: int = 0
    traits: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)

    def add(self, program: d.Program, trial: Trial, way: str) -> None:
        """Count one program, tried in some way."""
        self.programs += 1
        self.traits.update([*traits(program, trial), f"tried: {way}"])
        if trial.waived:
            self.traits.update([f"tried: {way}, but {trial.waived}"])
        if not trial.merges:
            reasons = {str(block.reason).split(":")[0] for block in trial.report.blocks}
            self.refusals.update(reasons or {"no attention"})

    def __iadd__(self, other: Shares) -> Shares:
        self.programs += other.programs
        self.traits.update(other.traits)
        self.refusals.update(other.refusals)
        return self

    def share(self, trait: str) -> float:
        """The share of programs that have a trait."""
        return self.traits[trait] / max(self.programs, 1)

    def __str__(self) -> str:
        lines = [f"{self.share(name):6.1%}  {name}" for name, _ in self.traits.most_common()]
        refused = [f"{count:6d}  {why}" for why, count in self.refusals.most_common(12)]
        return "\n".join([f"{self.programs} programs:", *lines, "Not merged, because:", *refused])

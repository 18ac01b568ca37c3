"""What a user is told of their model and device, and is shown."""

from tests.mutants.mutant import Mutant

TIMES = "tests/measuring/test_times.py"
COMPARE = "tests/measuring/test_compare.py"
BENCHMARK = "tests/measuring/test_benchmark.py"

MUTANTS = [
    Mutant(
        "what does not pay in time merges",
        "passes/plan/timed.py",
        "if worst is None or without[worst] > left:",
        "if True:",
        TIMES,
    ),
    Mutant(
        "matching takes no time",
        "passes/plan/times.py",
        "total += between(REMOVED, by_removed, 1 - ratio)",
        "pass",
        TIMES,
    ),
    Mutant(
        "a latency is a share of the dense one's",
        "passes/plan/timed.py",
        "options.latency / dense if dense else 1.0",
        "options.latency",
        TIMES,
    ),
    Mutant(
        "the device is measured each time",
        "passes/plan/table.py",
        "missing = [key for key in calls if key not in self.seconds]",
        "missing = list(calls)",
        TIMES,
    ),
    Mutant(
        "counts are rounded down",
        "passes/plan/rounding.py",
        "left += -left % self.multiple",
        "left -= left % self.multiple",
        "tests/test_plan.py",
    ),
    Mutant(
        "what rounding leaves is forgotten",
        "passes/plan/rounding.py",
        "self._owed[axis] = wanted - gone",
        "pass",
        "tests/test_plan.py",
    ),
    Mutant(
        "a change is not relative",
        "pitome_fx/measuring/changes.py",
        " / b.norm(dim=1).clamp(min=tiny)",
        "",
        COMPARE,
    ),
    Mutant(
        "an output of all items together says which item moves",
        "pitome_fx/measuring/compare.py",
        "torch.stack(of_items or of_all)",
        "torch.stack(of_all or of_items)",
        COMPARE,
    ),
    Mutant(
        "labels are compared with the dense scores alone",
        "pitome_fx/measuring/compare.py",
        'zip(("merged", "dense"), scores, strict=True)',
        'zip(("merged", "dense"), (scores[1], scores[1]), strict=True)',
        COMPARE,
    ),
    Mutant(
        "the dense model of a benchmark merges",
        "pitome_fx/measuring/benchmark.py",
        "dense = Options(ratio=1.0,",
        "dense = Options(ratio=0.9,",
        BENCHMARK,
    ),
    Mutant(
        "memory that is freed counts on",
        "pitome_fx/measuring/memory.py",
        "accumulate((size for _, size in changes)",
        "accumulate((abs(size) for _, size in changes)",
        BENCHMARK,
    ),
    Mutant(
        "a merge is shown as it was before",
        "pitome_fx/frontends/tokens.py",
        "assignment=decision.after",
        "assignment=decision.before",
        "tests/test_tokens.py",
    ),
    Mutant(
        "groups of a later merge are not those of the first tokens",
        "pitome_fx/frontends/watching.py",
        "after = step.gather(1, state.groups)",
        "after = step",
        "tests/test_tokens.py",
    ),
    Mutant(
        "an output with tokens in two dimensions stays merged",
        "passes/rewrite/merged_outputs.py",
        "        if more:\n",
        "        if False:\n",
        "tests/test_merged_outputs.py",
    ),
    Mutant(
        "names of a user's are markup",
        "pitome_fx/page/markup.py",
        "piece if isinstance(piece, Markup) else escape(piece)",
        "piece",
        "tests/test_page.py",
    ),
]

"""Where the library meets its users."""

from tests.mutants.mutant import Mutant

MUTANTS = [
    Mutant(
        "garbage is looked for while a graph is traced",
        "passes/capture/program.py",
        "    gc.disable()\n",
        "",
        "tests/test_failures.py",
    ),
    Mutant(
        "autocast in a graph is recorded and no more",
        "passes/capture/switches.py",
        "if func is _enter_autocast:",
        "if False:",
        "tests/properties/test_programs.py::test_programs_that_once_failed_in_a_narrow_dtype",
    ),
    Mutant(
        "a changed op body meets a warm cache",
        "backends/caching.py",
        'return hashlib.sha256("\\0".join(parts).encode()).hexdigest()',
        'return ""',
        "tests/test_cache.py",
    ),
    Mutant(
        "what failed is said to have no attention",
        "backends/verdict.py",
        'if present != {"dense"} or any(',
        'if "merged" in present or any(',
        "tests/test_failures.py",
    ),
    Mutant(
        "an attention-free graph is taken for the whole",
        "backends/verdict.py",
        "if call is None or _is_whole(graph, call):",
        "if True:",
        "tests/test_verdict.py",
    ),
    Mutant(
        "what merged in an earlier call is forgotten",
        "backends/verdict.py",
        "any(code not in fates for code in self.merging)",
        "False",
        "tests/test_verdict.py",
    ),
    Mutant(
        "strict raises in the first call alone",
        "backends/verdict.py",
        "                    reset_code(code)\n",
        "                    continue\n",
        "tests/test_verdict.py",
    ),
    Mutant(
        "a call that raises is judged",
        "backends/verdict.py",
        "if not _is_raising(sys._getframe(1)):",
        "if True:",
        "tests/test_verdict.py",
    ),
    Mutant(
        "a failing merged graph ends explain",
        "pitome_fx/frontends/explain.py",
        "        return with_fallback(\n            merged.forward,",
        "        return merged.forward\n        with_fallback(\n            merged.forward,",
        "tests/test_failures.py",
    ),
    Mutant(
        "a package takes any name",
        "pitome_fx/deploy.py",
        "if path.suffix != wanted.suffix and not wanted.any_name:",
        "if False:",
        "tests/cli/test_bad_input.py",
    ),
    Mutant(
        "what a failed first run wrote stays written",
        "backends/fallback.py",
        "            before.put_back()\n",
        "",
        "tests/test_fallback.py::test_what_the_failed_run_wrote_is_put_back",
    ),
]

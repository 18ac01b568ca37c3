"""Where a merged graph is cut into regions, and these are called."""

from tests.mutants.mutant import Mutant

TESTS = "tests/regions"

MUTANTS = [
    Mutant(
        "a region reads another slot",
        "backends/calls.py",
        "operands = [values[i] for i in call.inputs]",
        "operands = [values[i] for i in sorted(call.inputs)]",
        f"{TESTS}/test_calls.py::TestTheWholeGraph",
    ),
    Mutant(
        "a value that is still read is freed",
        "backends/calls.py",
        "        read |= set(region.inputs)\n",
        "",
        f"{TESTS}/test_calls.py::TestTheWholeGraph",
    ),
    Mutant(
        "values are kept to the end",
        "backends/calls.py",
        "            for i in call.done:\n                values[i] = None\n",
        "",
        f"{TESTS}/test_calls.py::TestTheWholeGraph",
    ),
    Mutant(
        "a region runs on the lengths of the first of its kind",
        "backends/kinds.py",
        "        steps.append(Step(kind.call, counts, region))\n",
        "        own = [c for s in steps if s.function is kind.call for c in [s.counts]]\n"
        "        steps.append(Step(kind.call, own[0] if own else counts, region))\n",
        f"{TESTS}/test_calls.py::TestTheWholeGraph",
    ),
    Mutant(
        "what was assumed of lengths is forgotten",
        "passes/regions/symbolic.py",
        "return all(guard.expr.xreplace(known) == True for guard in self.env.guards)  # noqa: E712",
        "return True",
        f"{TESTS}/test_inductor.py::TestCaches",
    ),
    Mutant(
        "literals make no difference",
        "passes/regions/structure.py",
        "        return (type(x).__name__, repr(x))\n",
        "        return type(x).__name__\n",
        f"{TESTS}/test_kinds.py::TestAlike",
    ),
    Mutant(
        "wiring makes no difference",
        "passes/regions/structure.py",
        'return ("own", self.local[x])',
        'return ("own",)',
        f"{TESTS}/test_kinds.py::TestAlike",
    ),
    Mutant(
        "strides of operands make no difference",
        "passes/regions/structure.py",
        "return (value.dtype, value.device, sizes, order is None, strides, type(value).__name__)",
        "return (value.dtype, value.device, sizes, type(value).__name__)",
        f"{TESTS}/test_kinds.py::TestAlike",
    ),
    Mutant(
        "an output that only some regions of a kind need is dropped",
        "passes/regions/cutting.py",
        "outputs = sorted({i for region in own for i in region.outputs})",
        "outputs = own[0].outputs",
        f"{TESTS}/test_calls.py::TestTheWholeGraph",
    ),
    Mutant(
        "a layout that the metadata has wrong is believed",
        "backends/kinds.py",
        "if kind.misread and found.is_news(kind):",
        "if False:",
        f"{TESTS}/test_calls.py::TestTheWholeGraph",
    ),
    Mutant(
        "what needs gradients is not handed on",
        "backends/kinds.py",
        "        self.trained.update(zip(outputs, kind.trained, strict=True))\n",
        "",
        f"{TESTS}/test_calls.py::TestTheWholeGraph",
    ),
    Mutant(
        "what is written is shared by several regions",
        "passes/regions/whole.py",
        "    if _writes_what_is_shared(graph):\n",
        "    if False:\n",
        f"{TESTS}/test_whole.py::TestWhole",
    ),
    Mutant(
        "a compile is known by its graph alone",
        "backends/kinds.py",
        "depends_on = (region.key, tuple(region.outputs), self.flags(region), self.setting)",
        "depends_on = (region.key, tuple(region.outputs), self.flags(region))",
        f"{TESTS}/test_inductor.py::TestInductor::test_another_setting_compiles_anew",
    ),
    Mutant(
        "a cut inside a change of autocast",
        "passes/regions/atoms.py",
        "        inside += SWITCHES.get(node.target, 0)\n",
        "",
        f"{TESTS}/test_inductor.py::TestInductor::test_autocast_around_and_inside",
    ),
]

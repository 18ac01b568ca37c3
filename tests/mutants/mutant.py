"""One mutant: a small change of the kind that a lifting pass gets wrong, and who should notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A text of one file replaced by another.

    Attributes:
        tests: where it should be noticed first; the whole suite is asked after them.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


def law_of(case: str) -> str:
    """The test of one case of a token rule."""
    return f"tests/properties/test_rules.py::test_rule_keeps_the_law[{case}]"


def spelling(law: str) -> str:
    """A test of one spelling of attention."""
    name = "causal_attention_" if law.startswith("is_refused") else "spelling_"
    return f"tests/test_spellings.py::test_{name}{law}"


def zoo(name: str) -> str:
    """The test of one model of the zoo."""
    return f"tests/test_zoo.py::test_model_of_the_zoo[{name}]"


OPS, ORACLE, MASKS = "tests/test_ops.py", "tests/test_oracle_models.py", "tests/test_masks.py"
PADDING, BIASES = "tests/test_padding.py", "tests/test_biases.py"
RESIDUALS = "tests/test_residuals.py"
BY_PAPER = "tests/test_oracle_models.py::test_however_it_is_spelled"

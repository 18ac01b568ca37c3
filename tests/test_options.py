"""Options: what is allowed, what the defaults are, and errors that say how to go on."""

import dataclasses
import itertools
from typing import Any

import pytest

from pitome_fx import ALGORITHMS, Options, OptionsError, PitomeError

DEFAULTS = {
    "ratio": None,
    "r": None,
    "flops": None,
    "schedule": None,
    "algorithm": "pitome",
    "margin": None,
    "alpha": None,
    "metric": None,
    "protect": "auto",
    "proportional": True,
    "blocks": None,
    "min_tokens": 8,
    "lowering": "inductor",
    "lowering_options": {},
    "form": None,
    "strict": False,
}

ALLOWED: list[dict[str, Any]] = [
    {"ratio": 0.5},
    {"ratio": 1},
    {"r": 0},
    {"r": 300},
    {"flops": 1e-3},
    {"flops": 1},
    {"schedule": [0.5, 1]},
    {"schedule": (0.9,)},
    {"algorithm": "tome"},
    {"margin": -1},
    {"margin": 0.999},
    {"alpha": 0},
    {"metric": "hidden"},
    {"protect": 0},
    {"protect": 5},
    {"proportional": False},
    {"blocks": []},
    {"blocks": range(0, 12, 2)},
    {"blocks": {3, 1}},
    {"min_tokens": 2},
    {"lowering": "aot_eager"},
    {"lowering_options": {"max_autotune": True}},
    {"strict": True},
]

REFUSED: list[tuple[str, Any, str]] = [
    ("ratio", 0.49, "[0.5, 1]"),
    ("ratio", 1.01, "[0.5, 1]"),
    ("ratio", "0.9", "[0.5, 1]"),
    ("ratio", True, "[0.5, 1]"),
    ("ratio", float("nan"), "[0.5, 1]"),
    ("r", -1, "non-negative int"),
    ("r", 2.0, "non-negative int"),
    ("r", True, "non-negative int"),
    ("flops", 0, "(0, 1]"),
    ("flops", 1.5, "(0, 1]"),
    ("flops", "60%", "(0, 1]"),
    ("schedule", 0.9, "list of keep ratios in [0.5, 1]"),
    ("schedule", (), "non-empty"),
    ("schedule", (0.9, 0.3), "list of keep ratios in [0.5, 1]"),
    ("schedule", ("0.9",), "list of keep ratios in [0.5, 1]"),
    ("schedule", "0.9", "list of keep ratios in [0.5, 1]"),
    ("algorithm", "pitomé", "pitome, pitome-elu, pitome-text, tome"),
    ("algorithm", None, "pitome, pitome-elu, pitome-text, tome"),
    ("margin", 1, "[-1, 1)"),
    ("margin", -1.1, "[-1, 1)"),
    ("margin", "high", "[-1, 1)"),
    ("alpha", -0.1, "non-negative number"),
    ("alpha", float("inf"), "non-negative number"),
    ("metric", "values", "'keys' or 'hidden'"),
    ("protect", -1, "'auto' or a non-negative int"),
    ("protect", "cls", "'auto' or a non-negative int"),
    ("protect", True, "'auto' or a non-negative int"),
    ("protect", None, "'auto' or a non-negative int"),
    ("proportional", 1, "True or False"),
    ("proportional", None, "True or False"),
    ("blocks", 3, "attention-site numbers"),
    ("blocks", (-1,), "attention-site numbers"),
    ("blocks", ("blocks.0",), "attention-site numbers"),
    ("min_tokens", 1, "at least 2"),
    ("min_tokens", 8.0, "at least 2"),
    ("lowering", "", "lowering"),
    ("lowering", None, "lowering"),
    ("lowering_options", ["mode"], "a mapping"),
    ("lowering_options", None, "a mapping"),
    ("form", "onnx", "'pitome', 'aten' or 'portable'"),
    ("strict", "yes", "True or False"),
]


def test_defaults() -> None:
    assert dataclasses.asdict(Options()) == DEFAULTS
    assert Options.parse(None) == Options.parse({}) == Options()


@pytest.mark.parametrize("given", ALLOWED, ids=str)
def test_allowed(given: dict[str, Any]) -> None:
    assert Options.parse(given) == Options(**given)


@pytest.mark.parametrize(("key", "value", "allowed"), REFUSED)
def test_refused_with_key_value_and_what_is_allowed(key: str, value: Any, allowed: str) -> None:
    with pytest.raises(OptionsError) as refusal:
        Options.parse({key: value})
    assert f"{key}={value!r}" in str(refusal.value)
    assert allowed in str(refusal.value)


def test_every_option_has_a_refused_value() -> None:
    assert {key for key, _, _ in REFUSED} == set(DEFAULTS)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("ratoi", "ratio"),
        ("keep_ratio", "ratio"),
        ("flop", "flops"),
        ("algoritm", "algorithm"),
        ("margins", "margin"),
        ("protected", "protect"),
        ("proportinal", "proportional"),
        ("min_token", "min_tokens"),
        ("lowering_option", "lowering_options"),
        ("Strict", "strict"),
    ],
)
def test_unknown_key_names_the_nearest_one(wrong: str, near: str) -> None:
    with pytest.raises(OptionsError) as refusal:
        Options.parse({wrong: 0.123})
    message = str(refusal.value)
    assert f"{wrong!r}" in message and "0.123" in message
    assert f"Did you mean {near!r}?" in message
    assert all(key in message for key in DEFAULTS)


def test_unknown_key_like_none_lists_all() -> None:
    with pytest.raises(OptionsError) as refusal:
        Options.parse({"zzz": 1})
    assert "Did you mean" not in str(refusal.value)
    assert all(key in str(refusal.value) for key in DEFAULTS)


AMOUNTS = {"ratio": 0.9, "r": 4, "flops": 0.6, "schedule": [0.9]}


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(AMOUNTS, 2)])
def test_the_amount_is_said_once(first: str, second: str) -> None:
    given = {key: AMOUNTS[key] for key in (first, second)}
    with pytest.raises(OptionsError) as refusal:
        Options.parse(given)
    assert f"{first}=" in str(refusal.value) and f"{second}=" in str(refusal.value)


@pytest.mark.parametrize("given", [{}, *({key: value} for key, value in AMOUNTS.items())], ids=str)
def test_without_an_amount_sixty_percent_of_the_flops_are_kept(given: dict[str, Any]) -> None:
    assert Options.parse(given).resolved().flops == (None if given.keys() - {"flops"} else 0.6)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_open_options_get_the_algorithms_defaults(name: str) -> None:
    options = Options(algorithm=name).resolved()
    own = ALGORITHMS[name]
    assert (options.margin, options.alpha, options.metric, options.blocks) == (
        own.margin,
        own.alpha,
        own.metric,
        own.blocks,
    )
    assert options.margin == 0.9 and options.alpha == 1.0 and options.metric == "keys"
    assert options.blocks == ((0, 1, 2) if name == "pitome-text" else None)


@pytest.mark.parametrize(
    "given", [{"margin": 0.5}, {"alpha": 0.0}, {"metric": "hidden"}, {"blocks": [5]}], ids=str
)
def test_given_options_win_over_the_algorithms(given: dict[str, Any]) -> None:
    options = Options(algorithm="pitome-text", **given).resolved()
    for key in given:
        assert getattr(options, key) == getattr(Options(**given), key)


def test_options_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().ratio = 0.9  # type: ignore[misc]


def test_an_error_is_a_value_error() -> None:
    assert issubclass(OptionsError, ValueError) and issubclass(OptionsError, PitomeError)

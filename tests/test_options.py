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
    "speedup": None,
    "latency": None,
    "algorithm": "pitome-mean",
    "algorithm_options": {},
    "metric": None,
    "protect": "auto",
    "proportional": True,
    "blocks": None,
    "min_tokens": 8,
    "round_to": 1,
    "lowering": "inductor",
    "lowering_options": {},
    "form": None,
    "regions": "auto",
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
    {"speedup": 1},
    {"speedup": 1.5},
    {"latency": 0.02},
    {"round_to": 8},
    {"algorithm": "tome"},
    {"algorithm_options": {"margin": -1, "alpha": 0}, "algorithm": "pitome"},
    {"ratio": 0.2, "algorithm": "dpc-knn"},
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
    {"regions": False},
    {"strict": True},
]

REFUSED: list[tuple[str, Any, str]] = [
    ("ratio", 0.49, "[0.5, 1]"),
    ("ratio", 1.01, "a keep ratio of at most 1"),
    ("ratio", "0.9", "a keep ratio of at most 1"),
    ("ratio", True, "a keep ratio of at most 1"),
    ("ratio", float("nan"), "a keep ratio of at most 1"),
    ("ratio", 0, "a keep ratio of at most 1"),
    ("r", -1, "non-negative int"),
    ("r", 2.0, "non-negative int"),
    ("r", True, "non-negative int"),
    ("flops", 0, "(0, 1]"),
    ("flops", 1.5, "(0, 1]"),
    ("flops", "60%", "(0, 1]"),
    ("schedule", 0.9, "list of keep ratios of at most 1"),
    ("schedule", (), "non-empty"),
    ("schedule", (0.9, 0.3), "keep ratios in [0.5, 1]"),
    ("schedule", ("0.9",), "list of keep ratios of at most 1"),
    ("schedule", "0.9", "list of keep ratios of at most 1"),
    ("speedup", 0.9, "at least 1"),
    ("speedup", "2x", "at least 1"),
    ("speedup", float("inf"), "at least 1"),
    ("latency", 0, "seconds, more than 0"),
    ("latency", "20ms", "seconds, more than 0"),
    ("round_to", 0, "at least 1"),
    ("round_to", 8.0, "at least 1"),
    ("algorithm", "pitomé", "pitome, pitome-bsm, pitome-elu"),
    ("algorithm", None, "pitome, pitome-bsm, pitome-elu"),
    ("algorithm_options", None, "a mapping"),
    ("algorithm_options", {1: 2}, "a mapping"),
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
    ("regions", "sometimes", "'auto', True or False"),
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
        ("algorithm_option", "algorithm_options"),
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


AMOUNTS = {
    "ratio": 0.9,
    "r": 4,
    "flops": 0.6,
    "schedule": [0.9],
    "speedup": 1.5,
    "latency": 0.1,
}


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(AMOUNTS, 2)])
def test_the_amount_is_said_once(first: str, second: str) -> None:
    given = {key: AMOUNTS[key] for key in (first, second)}
    with pytest.raises(OptionsError) as refusal:
        Options.parse(given)
    assert f"{first}=" in str(refusal.value) and f"{second}=" in str(refusal.value)


@pytest.mark.parametrize("given", [{}, *({key: value} for key, value in AMOUNTS.items())], ids=str)
def test_without_an_amount_sixty_percent_of_the_flops_are_kept(given: dict[str, Any]) -> None:
    assert Options.parse(given).resolved().flops == (None if given.keys() - {"flops"} else 0.6)


def test_options_in_one_line_say_what_differs_from_the_defaults() -> None:
    assert str(Options()) == "default options"
    assert str(Options(ratio=0.9, algorithm="tome")) == "ratio=0.9, algorithm=tome"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_open_options_get_the_algorithms_defaults(name: str) -> None:
    options = Options(algorithm=name).resolved()
    own = ALGORITHMS[name]
    assert options.metric == own.metric
    assert options.algorithm_options == {key: p.default for key, p in own.parameters.items()}


WRONG_PARAMETERS: list[tuple[str, dict[str, Any], str]] = [
    ("pitome", {"margin": 1}, "margin=1 is not allowed for 'pitome': expected a number in [-1, 1)"),
    ("pitome", {"margin": "high"}, "expected a number in [-1, 1)"),
    ("pitome", {"alpha": -0.1}, "expected a non-negative number"),
    ("pitome", {"alpha": float("inf")}, "expected a non-negative number"),
    ("pitome", {"aplha": 1}, "'pitome' has no parameter 'aplha' (value 1); its parameters are mar"),
    ("tome", {"margin": 0.5}, "'tome' has no parameter 'margin' (value 0.5); it has none"),
    ("dpc-knn", {"neighbours": 0}, "expected a positive int"),
    ("random", {"seed": 0.5}, "expected an int"),
]


@pytest.mark.parametrize(("algorithm", "given", "words"), WRONG_PARAMETERS)
def test_wrong_parameters_of_an_algorithm(
    algorithm: str, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionsError) as refusal:
        Options(algorithm=algorithm, algorithm_options=given)
    assert words in str(refusal.value)


def test_what_were_options_once_are_parameters() -> None:
    with pytest.warns(FutureWarning, match=r"algorithm_options=\{'margin': 0.5\}"):
        options = Options.parse({"algorithm": "pitome", "margin": 0.5})
    assert options == Options(algorithm="pitome", algorithm_options={"margin": 0.5})


def test_given_options_win_over_the_algorithms() -> None:
    options = Options(algorithm="pitome", metric="hidden", algorithm_options={"margin": 0.5})
    assert options.resolved().metric == "hidden"
    assert options.resolved().algorithm_options == {"margin": 0.5, "alpha": 1.0}


def test_options_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().ratio = 0.9  # type: ignore[misc]


def test_an_error_is_a_value_error() -> None:
    assert issubclass(OptionsError, ValueError) and issubclass(OptionsError, PitomeError)

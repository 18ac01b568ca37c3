"""The options of the backend: one frozen dataclass, validated on construction."""

import dataclasses
import difflib
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pitome_fx.algorithms import ALGORITHMS
from pitome_fx.algorithms.parameters import complete
from pitome_fx.errors import OptionsError
from pitome_fx.lowerings import Form, form_of

AMOUNTS = ("ratio", "r", "flops", "schedule")
DEFAULT_FLOPS = 0.6
ONCE_OPTIONS = ("margin", "alpha")
"""Options of all algorithms once, that only some of them understand."""

FORMS: tuple[Form, ...] = ("pitome", "aten", "portable")


@dataclass(frozen=True)
class Options:
    """What to merge, how much, and how to lower the result.

    At most one of the four amounts may be given; with none, ``flops=0.6``.

    Attributes:
        ratio: keep ratio per block, in [0.5, 1]; about ratio·T of its T unprotected tokens stay.
            (Some algorithms reach lower ones: docs/algorithms.md.)
        r: tokens removed per block, a non-negative int (at most T // 2 in any block).
        flops: fraction of the model's FLOPs to keep, in (0, 1]; the planner solves for the ratio.
        schedule: keep ratio of each mergeable block in order, each in [0.5, 1].
        algorithm: name of a registered merging algorithm.
        algorithm_options: the algorithm's own parameters, as ``{"margin": 0.8}``; see
            docs/algorithms.md.
        metric: what tokens are compared by, attention ``"keys"`` or ``"hidden"`` states.
        protect: ``"auto"``, or the number of leading tokens that never merge.
        proportional: add log(size) of each key's group to the attention scores.
        blocks: numbers of the attention sites (as in the report) that may merge; None for all.
        min_tokens: a block with fewer tokens than this does not merge.
        lowering: ``"inductor"``, ``"eager"``, or the name of any other Dynamo backend.
        lowering_options: options of that lowering (for Inductor: config patches and ``"mode"``).
        form: ``"pitome"`` (merges are ``torch.ops.pitome`` nodes), ``"aten"`` (these dissolved, so
            that the library is not needed to run the graph), ``"portable"`` (dissolved into few
            ops, for other engines); None for the one that the lowering takes.
        regions: compile once what repeats in the merged graph (lowering ``"inductor"``): ``"auto"``
            where it can be done, ``True`` the same with a warning where not, ``False`` never.
        strict: raise instead of falling back to the dense model.

    Raises:
        OptionsError: for a wrong type or range, or two amounts at once.
    """

    ratio: float | None = None
    r: int | None = None
    flops: float | None = None
    schedule: tuple[float, ...] | None = None
    algorithm: str = "pitome-mean"
    algorithm_options: Mapping[str, Any] = field(default_factory=dict)
    metric: Literal["keys", "hidden"] | None = None
    protect: Literal["auto"] | int = "auto"
    proportional: bool = True
    blocks: tuple[int, ...] | None = None
    min_tokens: int = 8
    lowering: str = "inductor"
    lowering_options: Mapping[str, Any] = field(default_factory=dict)
    form: Form | None = None
    regions: Literal["auto"] | bool = "auto"
    strict: bool = False

    def __post_init__(self) -> None:
        # A schedule has an order, which a set has not.
        for key, kinds in (("schedule", (Sequence,)), ("blocks", (Sequence, set))):
            value = getattr(self, key)
            if isinstance(value, kinds) and not isinstance(value, str):
                object.__setattr__(self, key, tuple(value))
        self._check()
        # Equal options are written alike, so that they share a compile and its cache.
        for key in ("ratio", "flops"):
            if getattr(self, key) is not None:
                object.__setattr__(self, key, float(getattr(self, key)))
        if self.schedule is not None:
            object.__setattr__(self, "schedule", tuple(map(float, self.schedule)))

    def _check(self) -> None:
        """Every value is allowed, and the amount is said once."""
        if not isinstance(self.algorithm, str) or self.algorithm not in ALGORITHMS:
            raise OptionsError(
                f"algorithm={self.algorithm!r} is not allowed: expected one of "
                f"{', '.join(sorted(ALGORITHMS))}."
            )
        for key, (allowed, valid) in _CHECKS.items():
            value = getattr(self, key)
            if not valid(value):
                raise OptionsError(f"{key}={value!r} is not allowed: expected {allowed}.")
        self._check_ratios()
        own = ALGORITHMS[self.algorithm]
        complete(self.algorithm, own.parameters, self.algorithm_options)
        given = [key for key in AMOUNTS if getattr(self, key) is not None]
        if len(given) > 1:
            listed = ", ".join(f"{key}={getattr(self, key)!r}" for key in given)
            raise OptionsError(
                f"{listed}: these say the amount of merging more than once; "
                f"give at most one of {', '.join(AMOUNTS)}."
            )

    def _check_ratios(self) -> None:
        """How far tokens can be reduced in one merge is the algorithm's."""
        lowest = ALGORITHMS[self.algorithm].lowest_ratio
        for key in ("ratio", "schedule"):
            given = getattr(self, key)
            values = given if isinstance(given, tuple) else (given,)
            if any(value is not None and value < lowest for value in values):
                each = "a keep ratio" if key == "ratio" else "keep ratios"
                raise OptionsError(
                    f"{key}={given!r} is not allowed: expected {each} in [{lowest}, 1], as "
                    f"{self.algorithm!r} merges {ALGORITHMS[self.algorithm].removes} of the "
                    "tokens at most."
                )

    @classmethod
    def parse(cls, given: "Mapping[str, Any] | Options | None") -> "Options":
        """Options from a plain mapping, as torch.compile passes them on, or as they are."""
        if isinstance(given, Options):
            return given
        known = [f.name for f in dataclasses.fields(cls)]
        given = _with_parameters_together(given or {})
        for key in given:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise OptionsError(
                    f"unknown option {key!r} (value {given[key]!r}).{hint} "
                    f"Valid options: {', '.join(known)}."
                )
        return cls(**given)

    def to_json(self) -> str:
        """All that differs from the defaults, as JSON; ``from_json`` reads it."""
        return json.dumps(self.differing(), indent=2, default=dict)

    def differing(self) -> dict[str, Any]:
        """All that differs from the defaults, by name."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {key: value for key, value in fields.items() if value != getattr(Options(), key)}

    @classmethod
    def from_json(cls, text: str) -> "Options":
        """Options from what ``to_json`` wrote.

        Raises:
            OptionsError: it is no JSON object, or holds a wrong option.
        """
        try:
            given = json.loads(text)
        except ValueError as error:
            raise OptionsError(f"options must be a JSON object: {error}") from None
        if not isinstance(given, dict):
            raise OptionsError(f"options must be a JSON object, not {type(given).__name__}.")
        return cls.parse(given)

    @property
    def merges_nothing(self) -> bool:
        """True where the amount asked for is no merging at all, so the model stays as it is."""
        return (
            self.ratio == 1
            or self.flops == 1
            or self.r == 0
            or (self.schedule is not None and all(value == 1 for value in self.schedule))
        )

    @property
    def protected(self) -> int | None:
        """The number of leading tokens that never merge; None to find them in the graph."""
        return None if self.protect == "auto" else self.protect

    def resolved(self) -> "Options":
        """These options with the algorithm's own defaults and the default amount filled in."""
        own = ALGORITHMS[self.algorithm]
        no_amount = all(getattr(self, key) is None for key in AMOUNTS)
        return dataclasses.replace(
            self,
            flops=DEFAULT_FLOPS if no_amount else self.flops,
            algorithm_options=complete(self.algorithm, own.parameters, self.algorithm_options),
            metric=own.metric if self.metric is None else self.metric,
            form=self.form or form_of(self.lowering),
        )


def _with_parameters_together(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options in which what were options once are among the algorithm's own parameters."""
    moved = {key: given[key] for key in ONCE_OPTIONS if given.get(key) is not None}
    rest = {key: value for key, value in given.items() if key not in ONCE_OPTIONS}
    if moved:
        spelled = ", ".join(f"{key!r}: {value!r}" for key, value in moved.items())
        warnings.warn(
            f"{' and '.join(moved)} are parameters of some algorithms by now: write "
            f"algorithm_options={{{spelled}}}",
            FutureWarning,
            stacklevel=3,
        )
        rest["algorithm_options"] = {**rest.get("algorithm_options", {}), **moved}
    return rest


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _is_ratio(value: Any) -> bool:
    return _is_real(value) and 0 < value <= 1


def _optional(valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or valid(value)


def _all_of(valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(valid(item) for item in value)


_CHECKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "ratio": ("a keep ratio of at most 1", _optional(_is_ratio)),
    "r": (
        "a non-negative int, tokens removed per block",
        _optional(lambda v: _is_int(v) and v >= 0),
    ),
    "flops": ("a fraction of FLOPs in (0, 1]", _optional(lambda v: _is_real(v) and 0 < v <= 1)),
    "schedule": (
        "a non-empty list of keep ratios of at most 1, one per mergeable block",
        _optional(lambda v: _all_of(_is_ratio)(v) and len(v) > 0),
    ),
    "algorithm_options": (
        "a mapping from names of parameters",
        lambda v: isinstance(v, Mapping) and all(isinstance(key, str) for key in v),
    ),
    "metric": ("'keys' or 'hidden'", _optional(lambda v: v in ("keys", "hidden"))),
    "protect": (
        "'auto' or a non-negative int, the number of leading tokens that never merge",
        lambda v: v == "auto" or (_is_int(v) and v >= 0),
    ),
    "proportional": ("True or False", lambda v: isinstance(v, bool)),
    "blocks": (
        "a list of attention-site numbers (non-negative ints)",
        _optional(_all_of(lambda v: _is_int(v) and v >= 0)),
    ),
    "min_tokens": ("an int of at least 2", lambda v: _is_int(v) and v >= 2),
    "lowering": ("the name of a lowering", lambda v: isinstance(v, str) and bool(v)),
    "lowering_options": ("a mapping", lambda v: isinstance(v, Mapping)),
    "form": ("'pitome', 'aten' or 'portable'", _optional(lambda v: v in FORMS)),
    "regions": ("'auto', True or False", lambda v: v == "auto" or isinstance(v, bool)),
    "strict": ("True or False", lambda v: isinstance(v, bool)),
}

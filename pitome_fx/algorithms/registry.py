"""What an algorithm is, and the table of all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from torch import Tensor


class Match(NamedTuple):
    """Who merges with whom: T tokens become T' = T − k groups.

    Every group has one representative that is kept; the k other tokens move into a group. This
    says the same as a (B, T) map from token to group, with shapes that are static and with the
    few moved tokens at hand, so that merging touches k rows and not T.

    Attributes:
        kept: (B, T') index of each group's representative.
        moved: (B, k) index of each token that joins the group of another.
        target: (B, k) group that each moved token joins, in [0, T').
    """

    kept: Tensor
    moved: Tensor
    target: Tensor


class MatchFunction(Protocol):
    """Signature of an algorithm.

    Args (as passed): metric (B, T, D) in float32 or float64, no gradient; size (B, T), how many
    original tokens each stands for; padding (B, T) bool or None; k, the number of tokens to
    remove (at most T // 2, one less for odd T with padding); margin and alpha as in Options.
    A padding token and a real one must never share a group. The result must be deterministic.
    """

    def __call__(
        self,
        metric: Tensor,
        size: Tensor,
        padding: Tensor | None,
        k: int,
        margin: float,
        alpha: float,
    ) -> Match: ...


def constant_margin(margin: float, index: int, total: int) -> float:
    """The same margin in every block."""
    return margin


@dataclass(frozen=True)
class Algorithm:
    """A registered algorithm with its own defaults for the options left open."""

    name: str
    match: MatchFunction
    margin: float = 0.9
    alpha: float = 1.0
    metric: Literal["keys", "hidden"] = "keys"
    blocks: tuple[int, ...] | None = None
    margin_at: Callable[[float, int, int], float] = constant_margin


ALGORITHMS: dict[str, Algorithm] = {}


def register(
    name: str,
    *,
    margin: float = 0.9,
    alpha: float = 1.0,
    metric: Literal["keys", "hidden"] = "keys",
    blocks: tuple[int, ...] | None = None,
    margin_at: Callable[[float, int, int], float] = constant_margin,
) -> Callable[[MatchFunction], MatchFunction]:
    """Register a match function as ``algorithm=name``.

    Args:
        name: what users write; must be new.
        margin, alpha, metric, blocks: defaults for the options a user leaves open.
        margin_at: ``(margin, i, L) -> m``, the margin of block i (from 0) of L.

    Raises:
        ValueError: the name is taken.
    """

    def add(match: MatchFunction) -> MatchFunction:
        if name in ALGORITHMS:
            raise ValueError(f"an algorithm named {name!r} is registered already")
        ALGORITHMS[name] = Algorithm(name, match, margin, alpha, metric, blocks, margin_at)
        return match

    return add

"""What an algorithm is, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from pitome_fx.algorithms.parameters import Parameter, parameters_of

Need = Literal["hidden", "queries", "keys", "importance", "position"]
NEEDS: tuple[Need, ...] = ("hidden", "queries", "keys", "importance", "position")


@dataclass(frozen=True)
class Tokens:
    """What an algorithm decides on. B: batch, T: unprotected tokens, H: heads, F: features.

    Attributes:
        metric: (B, T, D) what tokens are compared by, in float32 or float64, without gradient.
        size: (B, T) how many original tokens each stands for.
        padding: (B, T) bool, which are padding; None where none is.
        k: how many tokens to remove.
        block, blocks: this is block i (from 0) of the L of its stream.
        hidden: (B, T, F) values of the stream. This and what follows is None unless asked for.
        queries, keys: (B, H, T, D) of each head.
        importance: (B, T) the attention that the first protected token (the class token) pays to
            each; where none is protected, that a query pays that is the mean of all.
        position: (B, T) place of each group's representative among the original tokens.
    """

    metric: Tensor
    size: Tensor
    padding: Tensor | None
    k: int
    block: int = 0
    blocks: int = 1
    hidden: Tensor | None = None
    queries: Tensor | None = None
    keys: Tensor | None = None
    importance: Tensor | None = None
    position: Tensor | None = None


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


class Weights(NamedTuple):
    """A group's value, where it is not the size-weighted mean: own·x_kept + Σ mix·x_moved.

    Attributes:
        own: (B, T') weight of each group's representative.
        mix: (B, k) weight of each moved token in its group, or (B, T', k) in every group.
    """

    own: Tensor
    mix: Tensor


@dataclass(frozen=True)
class Algorithm:
    """A registered algorithm.

    Attributes:
        match: who merges with whom, ``(tokens, *, parameter=default, …)``. A padding token and a
            real one must never share a group; the result must be deterministic, and of one item
            must not depend on the others of its batch.
        parameters: its own, by name.
        needs: what it asks for beside metric, size and padding.
        metric: what tokens are compared by unless the options say otherwise.
        removes: at most ``"half"`` of the tokens, as any split in two does, or ``"all but one"``.
        blocks: which of L blocks merge unless the options say so; None for all.
        weights: group values other than the size-weighted mean, ``(tokens, match, **parameters)``;
            None for that. Padding and real tokens have no weight in each other's groups.
        scores: what it ranks tokens by, ``(tokens, **parameters)`` → (B, T), to be looked at: the
            match does not ask for them. None where it ranks none.
    """

    name: str
    match: Callable[..., Match]
    parameters: dict[str, Parameter]
    needs: frozenset[Need] = frozenset()
    metric: Literal["keys", "hidden"] = "keys"
    removes: Literal["half", "all but one"] = "half"
    blocks: Callable[[int], Collection[int]] | None = None
    weights: Callable[..., Weights] | None = None
    scores: Callable[..., Tensor] | None = None

    @property
    def lowest_ratio(self) -> float:
        """The lowest keep ratio that it can reach in one merge."""
        return 0.5 if self.removes == "half" else 0.01


ALGORITHMS: dict[str, Algorithm] = {}
"""Every algorithm by its name: those of the library, and whatever ``register`` added."""


def register(
    name: str,
    *,
    needs: Iterable[Need] = (),
    metric: Literal["keys", "hidden"] = "keys",
    removes: Literal["half", "all but one"] = "half",
    blocks: Callable[[int], Collection[int]] | None = None,
    weights: Callable[..., Weights] | None = None,
    scores: Callable[..., Tensor] | None = None,
) -> Callable[[Callable[..., Match]], Callable[..., Match]]:
    """Register a match function as ``algorithm=name``.

    Its keyword-only arguments are its parameters, given as ``algorithm_options={…}``.

    Args:
        name: what users write; must be new.
        needs, metric, removes, blocks, weights, scores: as in ``Algorithm``.

    Raises:
        ValueError: the name is taken, or it asks for what there is not.
        TypeError: the function takes other arguments than tokens and parameters with defaults.
    """
    needs = frozenset(needs)
    unknown = needs.difference(NEEDS)
    if unknown:
        raise ValueError(f"needs={sorted(unknown)}: an algorithm may ask for {', '.join(NEEDS)}")

    def add(match: Callable[..., Match]) -> Callable[..., Match]:
        if name in ALGORITHMS:
            raise ValueError(f"an algorithm named {name!r} is registered already")
        own = parameters_of(match)
        ALGORITHMS[name] = Algorithm(
            name, match, own, needs, metric, removes, blocks, weights, scores
        )
        return match

    return add

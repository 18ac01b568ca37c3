"""Token counts that are multiples of a number, as some devices like them."""

from __future__ import annotations

from pitome_fx.passes.plan.planning import PlannedMerge
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.sizes import Size, hint


class Rounding:
    """Rounds up the counts that merges leave; what a merge leaves too many goes with a later one.

    Args:
        multiple: of which counts are multiples; 1 for any count.
    """

    def __init__(self, multiple: int) -> None:
        self.multiple = multiple
        self._owed: dict[Axis, int] = {}

    def removed(self, merge: PlannedMerge, tokens: Size, k: Size) -> Size:
        """How many of the tokens before a merge go, where k of them would.

        A symbolic count stays as it is: what is left of it would have to be proved anew for each
        merge.
        """
        if self.multiple == 1 or not isinstance(tokens, int) or not isinstance(k, int) or k <= 0:
            return k
        axis = merge.block.axis
        wanted = k + self._owed.get(axis, 0)
        # What earlier merges owe goes as far as every algorithm has pairs for it.
        left = tokens - min(wanted, max(k, merge.loose(tokens) // 2))
        left += -left % self.multiple
        gone = max(tokens - left, 0)
        self._owed[axis] = wanted - gone
        return gone

    def why_none(self, tokens: Size) -> str:
        """Why a merge removes nothing."""
        if self.multiple > 1:
            return (
                f"round_to={self.multiple}: fewer than that would go of {hint(tokens)} tokens; "
                "they go with a later merge"
            )
        return f"too few tokens: the amount asked for removes none of {tokens}"

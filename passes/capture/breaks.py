"""Where Dynamo broke a graph off."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule

RESUMED = re.compile(r"torch_dynamo_resume_in_.*_at_(\d+)")
"""The name that Dynamo gives the rest of a function after a break."""


@dataclass(frozen=True)
class Breaks:
    """Where a graph was broken off, as ``file:line`` of the user's code; "" where it was not.

    Attributes:
        begins: the line after which the graph goes on from an earlier one.
        ends: the line at which the graph breaks off.
    """

    begins: str = ""
    ends: str = ""

    def __bool__(self) -> bool:
        return bool(self.begins or self.ends)

    def __str__(self) -> str:
        parts = [f"begins after {self.begins}"] if self.begins else []
        parts += [f"ends at {self.ends}"] if self.ends else []
        return " and ".join(parts)


UNBROKEN = Breaks()


def breaks_of(graph: GraphModule) -> Breaks:
    """What Dynamo noted on a graph: why it was compiled, and in which function."""
    reason: Any = getattr(graph, "compile_subgraph_reason", None)
    stack = list(getattr(reason, "user_stack", None) or [])
    if not stack:
        return UNBROKEN
    # The outermost frame is the function that was compiled, the innermost one where it stopped.
    resumed = RESUMED.fullmatch(stack[0].name)
    return Breaks(
        begins=f"{stack[0].filename}:{resumed[1]}" if resumed else "",
        ends=f"{stack[-1].filename}:{stack[-1].lineno}" if reason.graph_break else "",
    )

"""The names of the dense program's dimensions, found once and used by every later stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch.fx import Node

from pitome_fx.passes.tokens.axes import Axis


@dataclass
class Labels:
    """Identities of the dense program's dimensions: per node, and the axes first seen there."""

    dims: dict[Node, Any] = field(default_factory=dict)
    axes: dict[tuple[Node, int, int], Axis] = field(default_factory=dict)

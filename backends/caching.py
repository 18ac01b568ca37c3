"""What the caches of AOTAutograd and Inductor are told, beside the graph.

They hash a graph in which a pitome op is just its name.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass

import pitome_fx
from pitome_fx.algorithms import ALGORITHMS, Algorithm, is_shipped
from pitome_fx.ops import OPS
from pitome_fx.options import AMOUNTS, Options

PROCESS = uuid.uuid4().hex
_NUMBERS: dict[int, tuple[int, Algorithm]] = {}
"""Those of the algorithms seen, which are kept so that no id is given out twice."""


def tagged(patches: Mapping[str, Any], options: Options) -> Any:
    """The joint-graph passes, and one more that only names the version of the op bodies.

    Compile caches hash the graph, in which a pitome op is just its name: without this, a changed
    body would meet a warm cache and silently compute what the old one did.
    """
    own = Tag(digest(options))
    present = patches.get("joint_custom_pre_pass", torch._inductor.config.joint_custom_pre_pass)
    if present is None:
        return own
    present = present if isinstance(present, tuple | list) else (present,)
    return (*present, own)


class Tag(CustomGraphPass):
    """Changes nothing; its uuid is part of the cache key."""

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def __call__(self, graph: torch.fx.Graph) -> None:
        return None

    def uuid(self) -> str:
        return self.digest


def digest(options: Options) -> str:
    """Hash of what a compile depends on beside its graph: version, options, op sources."""
    ordered = replace(options, lowering_options=dict(sorted(options.lowering_options.items())))
    parts = [pitome_fx.__version__, torch.__version__, repr(ordered), _sources()]
    if options.form != "aten" and not is_shipped(options.algorithm):
        # What a function of a user's own computes may depend on anything: it never meets what
        # another process, or another registration, compiled.
        parts.append(f"{PROCESS} {_registration(ALGORITHMS[options.algorithm])}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _registration(algorithm: Algorithm) -> int:
    """A number of its own for each registered algorithm."""
    return _NUMBERS.setdefault(id(algorithm), (len(_NUMBERS), algorithm))[0]


def _sources() -> str:
    """Of the ops' bodies, of the algorithms that come with the library, and of what they call."""
    shipped = (own.match for name, own in ALGORITHMS.items() if is_shipped(name))
    functions = (*(op.body for op in OPS.values()), *shipped)
    modules = {f.__module__: sys.modules[f.__module__] for f in functions}
    pending = list(modules.values())
    while pending:
        for value in vars(pending.pop()).values():
            name = getattr(value, "__module__", None)
            if isinstance(name, str) and name.startswith("pitome_fx.") and name not in modules:
                modules[name] = sys.modules[name]
                pending.append(modules[name])
    return "\0".join(inspect.getsource(modules[name]) for name in sorted(modules))


def of_a_region(options: Options) -> Options:
    """The options without those that a graph shows: how much is merged, and where."""
    plain = Options()
    shown = (*AMOUNTS, "blocks", "min_tokens", "round_to", "protect", "strict", "regions")
    return replace(options, **{name: getattr(plain, name) for name in shown})

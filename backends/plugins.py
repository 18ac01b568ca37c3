"""Modules of a user's own that must be imported before a graph can be compiled as it was."""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch._library.custom_ops import OPDEFS
from torch._ops import OpOverload
from torch.fx import GraphModule

from pitome_fx.algorithms import ALGORITHMS, is_shipped
from pitome_fx.backends.lowering import LOWERINGS
from pitome_fx.backends.rebuilding import NotWrittenError
from pitome_fx.backends.registered import look_up
from pitome_fx.options import Options

NOT_TO_BE_IMPORTED = ("torch", "pitome_fx", "builtins")
"""Packages that are there without being asked for."""


def imports_of(graph: GraphModule, options: Options) -> list[str]:
    """Python that imports what registers the algorithm, the lowering, and the ops of the graph.

    Raises:
        NotWrittenError: one of them was registered by the script itself.
    """
    modules = dict.fromkeys(_module(function) for function in _registered(graph, options))
    own = [name for name in modules if name.partition(".")[0] not in NOT_TO_BE_IMPORTED]
    if "__main__" in own:
        raise NotWrittenError("what it needs is registered by the script itself, not by a module")
    folders = dict.fromkeys(folder for name in own if (folder := _folder(name)) is not None)
    return [
        *(f"sys.path.append({folder!r})" for folder in folders),
        *(f"import {name}" for name in own),
    ]


def _registered(graph: GraphModule, options: Options) -> Iterator[Any]:
    """Functions that the compile calls by a name."""
    if not is_shipped(options.algorithm):
        yield ALGORITHMS[options.algorithm].match
    known = LOWERINGS.get(options.lowering)
    yield look_up(options.lowering) if known is None else known.compile
    for module in graph.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            if isinstance(node.target, OpOverload) and node.target._schema.name in OPDEFS:
                yield OPDEFS[node.target._schema.name]._init_fn


def _module(function: Any) -> str:
    """The module that a function, or an object that is called, comes from."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__module__", None) or type(function).__module__


def _folder(module: str) -> str | None:
    """Where Python must look to find a module; None if it looks there anyway."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        raise NotWrittenError(f"the module {module} has no file")
    levels = module.count(".") + (Path(file).name == "__init__.py")
    folder = Path(file).resolve().parents[levels]
    return None if str(folder) in sysconfig.get_paths().values() else str(folder)

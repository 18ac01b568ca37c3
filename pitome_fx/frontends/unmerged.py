"""unmerged: from what torch.compile returned back to what it was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

from torch import nn
from torch._dynamo.eval_frame import OptimizedModule, innermost_fn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from pitome_fx.errors import UsageError
from pitome_fx.frontends.transformed import TransformedModule
from pitome_fx.ops import is_pitome_op

INSTEAD = "run it inside 'with pitome_fx.disabled():'"


@overload
def unmerged(compiled: nn.Module) -> nn.Module: ...


@overload
def unmerged(compiled: Callable[..., Any]) -> Callable[..., Any]: ...


def unmerged(compiled: Any) -> Any:
    """The dense model or function that was compiled: the object itself, with its parameters.

    Args:
        compiled: what torch.compile returned, for a module or for a function. A module that was
            not compiled is dense, and is returned as it is.

    Raises:
        UsageError: the dense model cannot be had from it; the text says what to do.
    """
    if isinstance(compiled, nn.Module):
        return _dense_module(compiled)
    if isinstance(compiled, ExportedProgram):
        raise UsageError(_no_way_back("an ExportedProgram"))
    if not hasattr(compiled, "_torchdynamo_orig_callable"):
        kind = getattr(compiled, "__name__", type(compiled).__name__)
        raise UsageError(
            f"unmerged({kind}): torch.compile did not return this, so what it calls is not known. "
            f"Give what torch.compile returned, or {INSTEAD}."
        )
    return innermost_fn(compiled)


def _dense_module(module: nn.Module) -> nn.Module:
    while isinstance(module, OptimizedModule):
        module = module._orig_mod
    if isinstance(module, TransformedModule) or _has_pitome_ops(module):
        raise UsageError(_no_way_back("what pitome_fx.transform returned"))
    for path, part in module.named_modules():
        if isinstance(part, OptimizedModule) or part._compiled_call_impl is not None:
            which = f"its part {path!r}" if path else "the model"
            how = "by itself" if isinstance(part, OptimizedModule) else "in place, by .compile()"
            raise UsageError(
                f"unmerged({type(module).__name__}): {which} was compiled {how}, so there is no "
                f"other module to give back: {INSTEAD}."
            )
    return module


def _has_pitome_ops(module: nn.Module) -> bool:
    return isinstance(module, GraphModule) and any(
        is_pitome_op(node.target) for node in module.graph.nodes
    )


def _no_way_back(what: str) -> str:
    return (
        f"unmerged: {what} does not keep the model that it was made of. Keep the model itself; it "
        "shares its parameters with the transformed one."
    )

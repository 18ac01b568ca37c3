"""What a compiled frame depends on beside its inputs: whether merging is switched off."""

from __future__ import annotations

from typing import Any

from torch._dynamo.guards import GuardBuilder, install_guard
from torch._dynamo.source import AttrSource, CallFunctionNoArgsSource
from torch._dynamo.symbolic_convert import InstructionTranslator

from pitome_fx import switch
from pitome_fx.options import Options


def merging_is_on(options: Options) -> bool:
    """May the graph being compiled merge? If that can change, Dynamo compiles it anew when it does.

    Raises:
        OptionsError: the environment says neither on nor off.
    """
    if switch.is_off_for_process() or options.merges_nothing:
        return False
    tracer = running_tracer()
    if tracer is not None:
        inside = AttrSource(tracer.import_source(switch.__name__), switch.is_disabled.__name__)
        answer = CallFunctionNoArgsSource(inside)
        install_guard(answer.make_guard(GuardBuilder.CONSTANT_MATCH))
    return not switch.is_disabled()


def running_tracer() -> Any:
    """What Dynamo is tracing a frame with; None outside of Dynamo."""
    try:
        return InstructionTranslator.current_tx()
    except AttributeError:
        return None

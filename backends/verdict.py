"""One verdict on a compiled function, over all graphs that Dynamo makes of it.

Dynamo hands over a function's graphs one by one, most of them while its first call runs. That
nothing merges can be known at once only of a graph that is the whole function; otherwise it is
known when the call returns.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, Literal
from weakref import WeakSet

from torch._dynamo.eval_frame import reset_code
from torch.fx import GraphModule
from torch.utils.weak import WeakIdKeyDictionary

from pitome_fx.backends.guarding import running_tracer
from pitome_fx.errors import PitomeWarning, RefusedError
from pitome_fx.options import Options
from pitome_fx.report import BlockReport, why_nothing_merges

Fate = Literal["merged", "dense", "failed"]


@dataclass
class Verdict:
    """What became of the graphs of one function compiled with the same options.

    Attributes:
        merging: frames of which some graph merges, in whatever call it was compiled.
        fates: what became of the frames compiled since the last verdict.
        sites: the attention of their graphs.
        said: warnings given.
        due: will there be a verdict when the running call returns?
    """

    strict: bool
    merging: WeakSet[CodeType] = field(default_factory=WeakSet)
    fates: dict[CodeType | None, set[Fate]] = field(default_factory=dict)
    sites: list[BlockReport] = field(default_factory=list)
    said: set[str] = field(default_factory=set)
    due: bool = False

    def add(self, graph: GraphModule, fate: Fate, sites: Iterable[BlockReport] = ()) -> None:
        """Note a graph's fate; judge the function, now or when its call returns.

        Raises:
            RefusedError: with ``strict=True``, where the graph is the whole and nothing merges.
        """
        code = _code()
        self.fates.setdefault(code, set()).add(fate)
        self.sites += sites
        if fate == "merged" and code is not None:
            self.merging.add(code)
        call = _call()
        if call is None or _is_whole(graph, call):
            self.judge()
        elif not self.due:
            self.due = True
            _when_it_returns(call, self.judge_call)

    def judge_call(self) -> None:
        """Judge when a call has returned; one that raises may have more graphs to come."""
        self.due = False
        if not _is_raising(sys._getframe(1)):
            codes = [code for code in self.fates if code is not None]
            try:
                self.judge()
            except RefusedError:
                # The graphs are compiled by now: the next call is to be refused as well.
                for code in codes:
                    reset_code(code)
                raise

    def judge(self) -> None:
        """Warn or raise if nothing merges in what is new, nor in what may have been reused."""
        fates, sites = self.fates, self.sites
        self.fates, self.sites = {}, []
        present = set().union(*fates.values())
        if present != {"dense"} or any(code not in fates for code in self.merging):
            return
        reason = why_nothing_merges(sites)
        if self.strict:
            raise RefusedError(reason)
        if reason not in self.said:
            self.said.add(reason)
            warnings.warn(reason, PitomeWarning, stacklevel=3)


_VERDICTS: Any = WeakIdKeyDictionary()
"""Function or module → options → its verdict; gone with the function."""


def verdict_on(options: Options) -> Verdict:
    """The verdict on the function that is being compiled."""
    call = _call()
    if call is None:
        return Verdict(options.strict)
    function = inspect.unwrap(call.f_locals["fn"])
    # Two compilations of one model with equal options share its graphs.
    owner = getattr(function, "__self__", function)
    try:
        known = _VERDICTS.setdefault(owner, {})
    except TypeError:  # no weak reference can be made to it
        known = _VERDICTS.setdefault(call.f_locals["self"], {})
    return known.setdefault(repr(options), Verdict(options.strict))


def _call() -> FrameType | None:
    """The frame in torch of the innermost call of a compiled function, None outside of any."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if (
            frame.f_code.co_name == "compile_wrapper"
            and _module(frame) == "torch._dynamo.eval_frame"
        ):
            return frame if {"fn", "self", "cleanups"} <= frame.f_locals.keys() else None
        frame = frame.f_back
    return None


def _module(frame: FrameType) -> str:
    return frame.f_globals.get("__name__") or ""


def _code() -> CodeType | None:
    """That of the frame that Dynamo is compiling."""
    tracer = running_tracer()
    return None if tracer is None else tracer.output.root_tx.f_code


def _is_whole(graph: GraphModule, call: FrameType) -> bool:
    """Does the graph reach from the call of the compiled function to its return?"""
    reason: Any = getattr(graph, "compile_subgraph_reason", None)
    if reason is None or reason.graph_break:
        return False
    outer: list[str] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not call:
        outer = [] if _module(frame) == "torch._dynamo.convert_frame" else [*outer, _module(frame)]
        frame = frame.f_back
    # Else another frame of the model called this one.
    return all(
        name == "torch.nn.modules.module" or name.startswith("torch._dynamo.") for name in outer
    )


def _when_it_returns(call: FrameType, then: Callable[[], None]) -> None:
    """torch runs what a call has to clean up just before it returns."""
    call.f_locals["cleanups"].append(then)


def _is_raising(call: FrameType) -> bool:
    error = sys.exception()
    trace = None if error is None else error.__traceback__
    while trace is not None:
        if trace.tb_frame is call:
            return True
        trace = trace.tb_next
    return False

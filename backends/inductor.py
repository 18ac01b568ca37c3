"""``lowering="inductor"``, with the caches that it keeps."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import logging
import sys
import uuid
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass

import pitome_fx
from pitome_fx.algorithms import ALGORITHMS, Algorithm, is_shipped
from pitome_fx.backends.lowering import Compiled, Job, Lowering, register_lowering
from pitome_fx.backends.regions import compile_regions
from pitome_fx.errors import OptionsError
from pitome_fx.ops import OPS
from pitome_fx.options import Options
from pitome_fx.passes.regions.cutting import cut

logger = logging.getLogger(__name__)

PROCESS = uuid.uuid4().hex
_NUMBERS: dict[int, tuple[int, Algorithm]] = {}
"""Those of the algorithms seen, which are kept so that no id is given out twice."""


def check(options: Options) -> None:
    """Every key is a setting of Inductor."""
    known = {*torch._inductor.config.get_config_copy(), "mode"}
    for key in options.lowering_options:
        if key.replace("-", "_") not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionsError(f"lowering_options: Inductor has no setting {key!r}.{hint}")


def compile_job(job: Job) -> Compiled:
    """With the settings as patches of its config."""
    from torch._inductor.compile_fx import compile_fx

    patches = dict(job.settings)
    mode = job.mode or patches.pop("mode", None)
    if mode is not None:
        known = torch._inductor.list_mode_options()
        if mode not in known:
            raise OptionsError(f"mode={mode!r} is unknown; known: {', '.join(known)}")
        patches = {**known[mode], **patches}
    if job.merged:
        patches["joint_custom_pre_pass"] = _tagged(patches, job.options)

    def compile_one(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Compiled:
        return cast(Compiled, compile_fx(graph, list(inputs), config_patches=patches))

    if job.merged and job.options.regions is not False:
        found = cut(job.graph, job.example_inputs, MOST_CALLS, PRICE)
        if not isinstance(found, str):
            return compile_regions(job.graph, job.example_inputs, found, compile_one, _setting(job))
        logger.debug("compiled as a whole: %s", found)
    return compile_one(job.graph, job.example_inputs)


MOST_CALLS, PRICE = 100, 4


def _setting(job: Job) -> Hashable:
    """All that a compile depends on beside its graph."""
    return digest(job.options)


def _tagged(patches: Mapping[str, Any], options: Options) -> Any:
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


def with_form(options: Options) -> Options:
    """Dissolves what Inductor's cache would not know: it hashes ops, not a user's own functions."""
    own = options.form is None and not is_shipped(options.algorithm)
    return replace(options, form="aten") if own and options.lowering == "inductor" else options


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


register_lowering(Lowering(("inductor",), check, compile_job, takes_mode=True))

"""``lowering="inductor"``."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch.fx import GraphModule

from pitome_fx.algorithms import is_shipped
from pitome_fx.backends.caching import tagged
from pitome_fx.backends.lowering import Compiled, Job, Lowering, register_lowering
from pitome_fx.backends.regional import by_regions
from pitome_fx.errors import OptionsError
from pitome_fx.options import Options


def check(options: Options) -> None:
    """Every key is a setting of Inductor."""
    known = {*torch._inductor.config.get_config_copy(), "mode"}
    for key in options.lowering_options:
        if key.replace("-", "_") not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionsError(f"lowering_options: Inductor has no setting {key!r}.{hint}")


def compile_job(job: Job) -> Compiled:
    """With the settings as patches of its config; by regions where that compiles less."""
    from torch._inductor.compile_fx import compile_fx

    patches = dict(job.settings)
    mode = job.mode or patches.pop("mode", None)
    if mode is not None:
        known = torch._inductor.list_mode_options()
        if mode not in known:
            raise OptionsError(f"mode={mode!r} is unknown; known: {', '.join(known)}")
        patches = {**known[mode], **patches}

    def compile_one(graph: GraphModule, inputs: Sequence[Any], options: Options) -> Compiled:
        own = {"joint_custom_pre_pass": tagged(patches, options)} if job.merged else {}
        return cast(Compiled, compile_fx(graph, list(inputs), config_patches={**patches, **own}))

    if job.merged and job.options.regions is not False:
        with torch._inductor.config.patch(patches):
            found = by_regions(job, compile_one, why_whole(mode))
        if found is not None:
            return found
    return compile_one(job.graph, job.example_inputs, job.options)


def why_whole(mode: str | None) -> str | None:
    """Why Inductor is to see the whole graph under its present settings, None if it need not."""
    config = torch._inductor.config
    if config.triton.cudagraphs:
        return "CUDA graphs record it as a whole"
    if config.max_autotune:
        return f"{mode or 'max_autotune'} tunes kernels to their shapes"
    if config.freezing or config.cpp_wrapper or torch._functorch.config.bundled_autograd_cache:
        return "it becomes part of what is compiled (freezing, a C++ wrapper, a file)"
    return None


def with_form(options: Options) -> Options:
    """Dissolves what Inductor's cache would not know: it hashes ops, not a user's own functions."""
    own = options.form is None and not is_shipped(options.algorithm)
    return replace(options, form="aten") if own and options.lowering == "inductor" else options


register_lowering(Lowering(("inductor",), check, compile_job, takes_mode=True, takes_regions=True))

"""A program through torch.compile: Dynamo's graph of it, lowered, beside its trial."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
import torch._dynamo

import pitome_fx
from pitome_fx import PitomeWarning
from tests.properties.build import build
from tests.properties.description import Options, Program
from tests.properties.laws import has_ties
from tests.properties.trial import LIMIT, Trial, every_merge_pays, of_users, run, worst_error
from tests.support.oracle import tensors


def as_traced(program: Program, options: Options, lowering: str) -> Trial:
    """What torch.compile makes of the program computes what the trial of the traced one did.

    Args:
        lowering: ``"eager"`` for Dynamo alone, ``regions.NAME`` to run every atom of the merged
            graph as a region, ``"inductor"`` to compile the merged graph too.

    Raises:
        AssertionError: a law is broken.
        PitomeWarning: the pass or the lowering failed, so that the model would run dense.
    """
    pays = options.get("pays", False)
    options = {**of_users(options), "pays": pays}
    trial = run(program, options)
    torch._dynamo.reset()
    module, inputs = build(program)
    options = {**options, "lowering": lowering}
    del options["pays"]
    compiled = torch.compile(module, backend="pitome", options=options)
    with torch.no_grad(), every_merge_pays(pays), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", ".* failed with ", PitomeWarning)
        output = compiled(*inputs)
    if lowering == "inductor" and trial.merges and has_ties(trial):
        # The rounding of fused kernels decides who merges with whom.
        return replace(trial, waived="tied tokens")
    error = worst_error((*tensors(output), *inputs), trial.output)
    if error > LIMIT and _sites(program, options) != len(trial.report.blocks):
        # They count where an algorithm merges in the first blocks only.
        return replace(trial, waived="Dynamo drops attention that nobody reads")
    assert error <= LIMIT, f"compiled ({lowering}) is not traced: {error:.1e} > {LIMIT:.0e}"
    return trial


def _sites(program: Program, options: Options) -> int:
    """Attention in Dynamo's graph."""
    module, inputs = build(program)
    with torch.no_grad():
        return len(pitome_fx.explain(module, inputs, **options).blocks)

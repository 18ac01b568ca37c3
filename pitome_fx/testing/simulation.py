"""The oracle: what a rewritten program must compute, found without any token rule.

Take the dense graph and, at each merge point and at each recorded projection, splice in
``x = lift(merge(x))``. No shape changes anywhere. Who merges with whom is decided on one
representative per group. The rewritten program must equal this simulation up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.export import ExportedProgram

from pitome_fx.frontends.transform import export
from pitome_fx.options import Options
from pitome_fx.passes import pipeline
from pitome_fx.passes.capture.program import capture_exported
from pitome_fx.testing.oracle import Simulator


def simulate(
    program: torch.nn.Module | ExportedProgram,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    assignments: Sequence[Tensor] | None = None,
    **options: Any,
) -> Any:
    """The outputs of ``program(*args, **kwargs)`` with merging simulated on the dense graph.

    Args:
        program: a module or an ExportedProgram, not transformed.
        args, kwargs: of the call.
        assignments: those recorded from a run (``run_recorded``), one (B, N) per merge, to be
            replayed, so that a near-tie between tokens cannot tell the two apart.
        options: as in ``Options``.

    Returns:
        Outputs made as those of the program, of the same shapes.

    Raises:
        OptionsError: an option is wrong.
        CaptureError: torch.export cannot trace the model.
        AssertionError: a recorded projection merges a value that depends on merged tokens.
    """
    parsed = Options.parse(options)
    exported = export(program, args, kwargs)
    outcome = pipeline.run(lambda: capture_exported(exported), replace(parsed, form="pitome"))
    simulator = Simulator(outcome, assignments)
    flat = simulator.run(*_flat_inputs(exported, args, kwargs))
    return _user_outputs(exported, flat)


def _flat_inputs(
    exported: ExportedProgram, args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> list[Any]:
    user = pytree.tree_leaves((tuple(args), dict(kwargs or {})))
    state = {**exported.state_dict, **exported.constants}
    feed = iter(user)
    return [
        state[spec.target] if spec.target is not None else next(feed)
        for spec in exported.graph_signature.input_specs
    ]


def _user_outputs(exported: ExportedProgram, flat: Sequence[Any]) -> Any:
    mutated = len(flat) - len(exported.graph_signature.user_outputs)
    return pytree.tree_unflatten(list(flat[mutated:]), exported.call_spec.out_spec)

"""``lowering="eager"``: the graph as PyTorch runs it, node by node."""

from __future__ import annotations

from pitome_fx.backends.lowering import Compiled, Job, Lowering, register_lowering
from pitome_fx.errors import OptionsError
from pitome_fx.options import Options


def check(options: Options) -> None:
    """There is nothing to set."""
    if options.lowering_options:
        raise OptionsError("lowering='eager' takes no lowering_options")


def compile_job(job: Job) -> Compiled:
    """The graph's own forward."""
    return job.graph.forward


register_lowering(Lowering(("eager",), check, compile_job))

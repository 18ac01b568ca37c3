"""Lowers a merged graph region by region, where that compiles less."""

from __future__ import annotations

import logging
import warnings

from torch._dynamo.exc import RestartAnalysis, SkipFrame

from pitome_fx.backends.failed import mention
from pitome_fx.backends.kinds import CompileOne, compile_all
from pitome_fx.backends.lowering import Compiled, Job
from pitome_fx.errors import PitomeWarning, in_short
from pitome_fx.passes.regions.budget import cut_where_alike
from pitome_fx.passes.regions.cutting import Cut

logger = logging.getLogger(__name__)


def by_regions(job: Job, compile_one: CompileOne, why_whole: str | None) -> Compiled | None:
    """What runs the job's graph region by region; None where it is to be compiled as a whole.

    Args:
        why_whole: why the lowering has to see the whole graph, None if it need not.
    """
    found = why_whole or cut_where_alike(job.graph, job.example_inputs)
    failure: Exception | None = None
    if isinstance(found, Cut):
        try:
            return compile_all(job, found, compile_one)
        except (RestartAnalysis, SkipFrame):
            raise
        except Exception as error:
            # Whatever it is, it is no reason to lose more than the time.
            logger.debug("compiling by regions failed", exc_info=error)
            failure = error
            found = f"compiling a region failed ({in_short(error)})"
    logger.info("compiled as a whole: %s", found)
    if job.options.regions is True:
        said = f"pitome: regions=True, but the graph is compiled as a whole: {found}."
        if failure is not None and job.dense is not None:
            said += mention("regions", job.dense, failure, said)
        warnings.warn(said, PitomeWarning, stacklevel=5)
    return None

"""All mutants, by what they break."""

from tests.mutants import detection, ends, merging, regions, rules, seeing
from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS", "Mutant"]

MUTANTS = [
    *merging.MUTANTS,
    *rules.MUTANTS,
    *detection.MUTANTS,
    *ends.MUTANTS,
    *regions.MUTANTS,
    *seeing.MUTANTS,
]

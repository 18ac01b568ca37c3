"""Random transformer programs against the oracle.

The profile is chosen by FUZZ_PROFILE: ``ci`` (the default; the same programs every time), ``dev``
(few, and new ones every time), ``nightly`` (many) or ``mutants`` (as ci, failures not shrunk).
"""

import os

from hypothesis import HealthCheck, Phase, settings

# Tracing and running a program takes a quarter of a second, the first one more. A program is a
# large draw, and some of them take Hypothesis's whole buffer.
_COMMON = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=False,
)

settings.register_profile("dev", _COMMON, max_examples=10)
settings.register_profile("ci", _COMMON, max_examples=20, derandomize=True, database=None)
settings.register_profile(
    "mutants", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate]
)
settings.register_profile("nightly", _COMMON, max_examples=1000)

PROFILE = settings.get_profile(os.environ.get("FUZZ_PROFILE", "ci"))
"""The chosen settings; not loaded for all of Hypothesis, whose other users have their own."""


def share(fraction: float) -> settings:
    """The profile with a fraction of its examples, for a law that takes longer."""
    return settings(PROFILE, max_examples=max(2, int(PROFILE.max_examples * fraction)))

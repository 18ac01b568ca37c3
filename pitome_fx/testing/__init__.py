"""The oracle, and what it needs: for tests of rewritten programs."""

from pitome_fx.testing.recorded import run_recorded
from pitome_fx.testing.simulation import simulate

__all__ = ["run_recorded", "simulate"]

"""Calibration: how much to merge where, found on a user's own inputs, without labels."""

from pitome_fx.calibration.calibrate import calibrate

__all__ = ["calibrate"]

"""Token merging as a compiler pass: ``torch.compile(model, backend="pitome")``."""

from pitome_fx import spectral
from pitome_fx.algorithms import ALGORITHMS, Match, Tokens, Weights, register
from pitome_fx.calibration import calibrate
from pitome_fx.errors import (
    CaptureError,
    DeployError,
    LoweringError,
    OptionsError,
    PassError,
    PitomeError,
    PitomeWarning,
    RefusedError,
)
from pitome_fx.frontends.explain import explain
from pitome_fx.frontends.transform import transform
from pitome_fx.options import Options
from pitome_fx.report import Report

__version__ = "0.1.0"

__all__ = [
    "ALGORITHMS",
    "CaptureError",
    "DeployError",
    "LoweringError",
    "Match",
    "Options",
    "OptionsError",
    "PassError",
    "PitomeError",
    "PitomeWarning",
    "RefusedError",
    "Report",
    "Tokens",
    "Weights",
    "calibrate",
    "explain",
    "register",
    "spectral",
    "transform",
]

"""Token merging as a compiler pass: ``torch.compile(model, backend="pitome")``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pitome_fx.algorithms import ALGORITHMS, Match, Tokens, Weights, register
from pitome_fx.errors import (
    CaptureError,
    DeployError,
    LoweringError,
    OptionsError,
    PassError,
    PitomeError,
    PitomeWarning,
    RefusedError,
    UsageError,
)
from pitome_fx.frontends.explain import explain
from pitome_fx.frontends.transform import transform
from pitome_fx.frontends.unmerged import unmerged
from pitome_fx.groups import Groups
from pitome_fx.options import Options
from pitome_fx.report import Report
from pitome_fx.switch import disabled

if TYPE_CHECKING:
    from pitome_fx import spectral, viz
    from pitome_fx.calibration.calibrate import calibrate
    from pitome_fx.frontends.tokens import MergedTokens, tokens
    from pitome_fx.measuring.benchmark import benchmark
    from pitome_fx.measuring.compare import compare

__version__ = "0.1.0"

IMPORTED_WHEN_USED = {
    "benchmark": "pitome_fx.measuring.benchmark",
    "MergedTokens": "pitome_fx.frontends.tokens",
    "calibrate": "pitome_fx.calibration.calibrate",
    "compare": "pitome_fx.measuring.compare",
    "spectral": "pitome_fx.spectral",
    "tokens": "pitome_fx.frontends.tokens",
    "viz": "pitome_fx.viz",
}
"""What is no part of compiling a model, and where it lies: a function, or a module of that name."""

__all__ = [
    "ALGORITHMS",
    "CaptureError",
    "DeployError",
    "Groups",
    "LoweringError",
    "Match",
    "MergedTokens",
    "Options",
    "OptionsError",
    "PassError",
    "PitomeError",
    "PitomeWarning",
    "RefusedError",
    "Report",
    "Tokens",
    "UsageError",
    "Weights",
    "benchmark",
    "calibrate",
    "compare",
    "disabled",
    "explain",
    "register",
    "spectral",
    "tokens",
    "transform",
    "unmerged",
    "viz",
]


def __getattr__(name: str) -> Any:
    if name not in IMPORTED_WHEN_USED:
        raise AttributeError(f"module 'pitome_fx' has no attribute {name!r}")
    place = IMPORTED_WHEN_USED[name]
    module = import_module(place)
    return module if place == f"pitome_fx.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

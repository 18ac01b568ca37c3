"""The model and the options that a command line names."""

from __future__ import annotations

import argparse
from typing import Any

from pitome_fx.cli import models
from pitome_fx.cli.shapes import InputSpec
from pitome_fx.cli.words import options_of, settings_of


def load(parsed: argparse.Namespace, batch: int = 1) -> tuple[models.Call, dict[str, Any]]:
    """The model with its inputs, and the options; what is cheap to find wrong comes first."""
    inputs = [InputSpec.parse(text) for text in parsed.input]
    settings = settings_of(parsed)
    build = models.find(parsed.model)
    # Not before: importing the user's module may have registered the algorithm.
    options = options_of(parsed)
    return models.load(build, settings, inputs, parsed.weights, batch), options

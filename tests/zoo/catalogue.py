"""All models of the zoo."""

from __future__ import annotations

from tests.zoo import timm_models

ENTRIES = [*timm_models.ENTRIES]

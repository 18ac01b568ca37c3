"""timm: image models."""

from __future__ import annotations

from functools import partial

from tests.support.models import timm_vit
from tests.zoo.entry import Entry

VIT = "ViT family (timm)"

ENTRIES = [
    Entry(VIT, "timm-vit", timm_vit, "3 of 3", fast=True),
    Entry(VIT, "timm-vit-layer-scale", partial(timm_vit, init_values=0.3), "3 of 3"),
]

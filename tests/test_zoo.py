"""A slice of the zoo; ``make zoo`` checks all of it."""

import pytest

from tests.zoo.catalogue import ENTRIES
from tests.zoo.check import examine

BY_NAME = {entry.name: entry for entry in ENTRIES}
SLICE = [
    "timm vit",
    "timm deit_tiny_distilled_patch16_224",
    "timm eva02_base_patch14_224",
    "timm cait_xxs24_224",
    "timm vit_relpos_base_patch16_cls_224",
    "transformers BertForMaskedLM",
    "transformers GPT2Model",
    "transformers T5Model",
    "transformers WavLMModel",
    "diffusers SD3Transformer2DModel",
    "timm tnt_s_legacy_patch16_224",
    "timm mobilevit_xxs",
    "diffusers UNet2DConditionModel",
    "by-hand-buffered",
    "frames-special-tokens",
    "encoder-padded-nested",
    "two-streams",
    "keys-of-another-item",
    "batch-is-tokens",
    "tokens-are-channels",
    "three-rgb-images",
    "paper-secvit-then-plain",
]
"""One model or two for each thing that has been got wrong."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SLICE)
def test_model_of_the_zoo(name: str) -> None:
    assert examine(BY_NAME[name]).problems == []


def test_every_model_has_a_name_of_its_own() -> None:
    assert len(BY_NAME) == len(ENTRIES)

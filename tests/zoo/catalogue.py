"""All models of the zoo."""

from __future__ import annotations

from tests.zoo import (
    adversarial,
    diffusers_models,
    frames,
    hand_models,
    hand_readouts,
    hand_written,
    masks,
    papers,
    timm_models,
    torch_models,
    transformers_models,
    transformers_sequences,
)

ENTRIES = [
    *timm_models.ENTRIES,
    *transformers_models.ENTRIES,
    *transformers_sequences.ENTRIES,
    *diffusers_models.ENTRIES,
    *torch_models.ENTRIES,
    *hand_written.ENTRIES,
    *hand_models.ENTRIES,
    *hand_readouts.ENTRIES,
    *adversarial.ENTRIES,
    *masks.ENTRIES,
    *frames.ENTRIES,
    *papers.ENTRIES,
]

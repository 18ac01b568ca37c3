"""transformers on texts and sound, with random weights and configurations written out here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.support.models import DEPTH, token_ids
from tests.zoo.entry import Entry, fixed
from tests.zoo.transformers_models import SMALL, SPECIAL, WORDS, Inputs, entry, noise

TEXT = "Text encoders (transformers)"
TWO_PARTS = "Encoders with decoders (transformers)"
SOUND = "Sound (transformers)"
CAUSAL = "Causal attention (transformers)"
OTHER = "Attention that is sparse, disentangled or none (transformers)"


def whole() -> dict[str, Tensor]:
    """Texts without padding."""
    return {"input_ids": token_ids()["input_ids"]}


def translated() -> dict[str, Tensor]:
    """Texts, some of them padded, and what a decoder has written so far."""
    return {**token_ids(), "decoder_input_ids": torch.randint(3, 99, (3, 12))}


def transcribed() -> dict[str, Tensor]:
    """Spectrograms, and what a decoder has written so far."""
    return {**SPECTRA(), "decoder_input_ids": torch.randint(3, 99, (2, 12))}


def heard() -> dict[str, Tensor]:
    """Sound of two lengths."""
    mask = torch.ones(2, 800, dtype=torch.long)
    mask[1, 500:] = 0
    return {**SAMPLES(), "attention_mask": mask}


SAMPLES = noise(input_values=(800,))
SPECTRA = noise(input_features=(16, 80))


def text(
    name: str,
    verdict: str = "3 of 3",
    note: str = "",
    inputs: Inputs = token_ids,
    family: str = TEXT,
    **changes: Any,
) -> Entry:
    """A model on texts, some of them padded, with the customary names of its settings."""
    made = entry(family, name, verdict, inputs, **WORDS | changes)
    return replace(made, name=made.name + note)


def bert(head: str) -> Entry:
    return text(head, config="BertConfig")


def sound(name: str, verdict: str = "3 of 3", inputs: Inputs = SAMPLES, **changes: Any) -> Entry:
    """A model on sound, with two convolutions before its blocks."""
    return entry(SOUND, name, verdict, inputs, **SMALL | CONVOLUTIONS | changes)


def two_parts(
    name: str, inputs: Inputs, settings: Mapping[str, Any], verdict: str = "", **changes: Any
) -> Entry:
    """A model of an encoder (three blocks) and a decoder (two)."""
    seen = verdict or "3 of 7: causal attention mask; cross-attention"
    return entry(TWO_PARTS, name, seen, inputs, **{**settings, **changes})


CONVOLUTIONS: dict[str, Any] = {
    "conv_dim": (32, 32),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 5),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "layerdrop": 0.0,
    "vocab_size": 32,
}
BART: dict[str, Any] = {
    "vocab_size": 99,
    "d_model": 48,
    "encoder_layers": DEPTH,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "use_cache": False,
}
T5: dict[str, Any] = {
    "vocab_size": 99,
    "d_model": 48,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": DEPTH,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "use_cache": False,
}
WHISPER = (
    BART | SPECIAL | {"max_source_positions": 40, "num_mel_bins": 16, "decoder_start_token_id": 1}
)
SPECTROGRAM: dict[str, Any] = SMALL | {
    "patch_size": 8,
    "frequency_stride": 8,
    "time_stride": 8,
    "max_length": 48,
    "num_mel_bins": 48,
}
MODERN = SPECIAL | {"cls_token_id": 1, "sep_token_id": 2, "local_attention": 8}
XLNET: dict[str, Any] = {"d_model": 48, "n_layer": DEPTH, "n_head": 3, "d_inner": 96}
MOBILE = {"embedding_size": 24, "intra_bottleneck_size": 24, "num_feedforward_networks": 2}
CAUSED = "0 of 3: causal attention mask"

ENTRIES = [
    text("BertModel"),
    text("BertModel", note=", eager", attn_implementation="eager"),
    text("BertModel", note=", unpadded", inputs=whole),
    bert("BertForSequenceClassification"),
    bert("BertForMaskedLM"),
    bert("BertForTokenClassification"),
    text("RobertaModel", pad_token_id=0),
    text("XLMRobertaModel", pad_token_id=0),
    text("DistilBertModel", dim=48, n_layers=DEPTH, n_heads=3, hidden_dim=96),
    text("AlbertModel", embedding_size=24),
    text("ElectraModel", embedding_size=24),
    text("MobileBertModel", "2 of 3: not profitable", **MOBILE),
    text("LayoutLMModel"),
    text("MPNetModel"),
    text("RoFormerModel"),
    text("EsmModel", position_embedding_type="rotary", pad_token_id=0, mask_token_id=1),
    text("ModernBertModel", "1 of 3: structured attention mask", **MODERN),
    text("SiglipTextModel", **SPECIAL),
    two_parts("T5EncoderModel", token_ids, T5, "3 of 3", config="T5Config"),
    two_parts("T5Model", translated, T5),
    two_parts("BartModel", translated, BART),
    fixed(two_parts("WhisperModel", transcribed, WHISPER)),
    fixed(
        two_parts(
            "WhisperForAudioClassification", SPECTRA, WHISPER, "3 of 3", config="WhisperConfig"
        )
    ),
    sound("Wav2Vec2Model"),
    sound("Wav2Vec2ForCTC", inputs=heard, config="Wav2Vec2Config"),
    sound("HubertModel"),
    sound("WavLMModel"),
    sound("Wav2Vec2ConformerModel", "0 of 3: not profitable", position_embeddings_type="rotary"),
    fixed(entry(SOUND, "ASTModel", "3 of 3", noise(input_values=(48, 48)), **SPECTROGRAM)),
    text("CLIPTextModel", CAUSED, inputs=whole, family=CAUSAL, **SPECIAL),
    text("LlamaModel", CAUSED, family=CAUSAL, use_cache=False),
    text("GPT2Model", CAUSED, family=CAUSAL, use_cache=False, n_embd=48, n_layer=3, n_head=3),
    text(
        "DebertaV2Model",
        "0 of 3: structured attention mask",
        family=OTHER,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
    ),
    text("XLNetModel", "0 of 3: structured attention mask", family=OTHER, **XLNET),
    text("LongformerModel", "no attention", family=OTHER, attention_window=8),
    text("FNetModel", "no attention", inputs=whole, family=OTHER),
]

"""BERT on texts of unlike lengths: padding merges with padding alone, and is never attended to.

    python examples/bert_padding.py     (pip install transformers)

Prints what merges, how many groups mix padding and text (none), and what changes when the padding
tokens are replaced by others (nothing, to the last bit). For comparison it prints how far merging
itself moves the output of this BERT, whose weights are random.
"""

from __future__ import annotations

import torch
import transformers
from torch import Tensor

import pitome_fx
from pitome_fx.testing import run_recorded

LENGTHS = (64, 40, 17)


def tiny_bert(layers: int) -> transformers.BertForSequenceClassification:
    """Random weights; nothing is downloaded."""
    config = transformers.BertConfig(
        vocab_size=1000,
        hidden_size=96,
        num_hidden_layers=layers,
        num_attention_heads=3,
        intermediate_size=192,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config).eval()


def mixed_groups(groups: Tensor, padding: Tensor) -> int:
    """How many groups of tokens have members of both kinds: groups and padding (B, N)."""
    count = 0
    for group, is_padding in zip(groups, padding, strict=True):
        count += len(set(group[is_padding].tolist()) & set(group[~is_padding].tolist()))
    return count


@torch.no_grad()
def main(layers: int = 4, ratio: float = 0.8) -> None:
    """Merge, then look at the groups and disturb the padding."""
    torch.manual_seed(0)
    model = tiny_bert(layers)
    length = max(LENGTHS)
    mask = (torch.arange(length) < torch.tensor(LENGTHS)[:, None]).long()
    padding = mask == 0
    inputs = {"input_ids": torch.randint(1, 1000, mask.shape), "attention_mask": mask}

    print(pitome_fx.explain(model, kwargs=inputs, ratio=ratio))
    merged = pitome_fx.transform(model, (), inputs, ratio=ratio)

    output, assignments = run_recorded(merged, **inputs)
    for block, groups in enumerate(assignments):
        mixed = mixed_groups(groups, padding)
        print(f"block {block}: {int(groups.max()) + 1:>2} groups, {mixed} mix padding and text")
    other = inputs["input_ids"].masked_fill(padding, 7)
    disturbed = merged(input_ids=other, attention_mask=mask).logits
    change = (disturbed - output.logits).abs().max()
    print(f"other padding tokens change the logits by {change:.1e}")
    dense = model(**inputs).logits
    moved = (output.logits - dense).norm() / dense.norm()
    print(f"merging moves them by {moved:.1%} of their length")


if __name__ == "__main__":
    main()

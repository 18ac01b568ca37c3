"""Training through the merged model wins back what merging costs.

    python examples/retrain.py

A small ViT is trained on scikit-learn's digits, then run on merged tokens with nothing trained
again, then trained for two more epochs while its tokens merge. So that the extra epochs are not
mistaken for the effect, a copy gets them without merging. Expect, at a keep ratio of 0.6 per block,
about 95 % dense, 83 % off the shelf, 88 % after the epochs without merging and 93 % after those
with it. Takes about half a minute.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

# A script sees its own folder only; `examples` and `benchmarks` lie beside each other.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.digits_vit import (
    Digits,
    Recipe,
    VisionTransformer,
    ViTConfig,
    load_digits,
    one_thread,
    train,
)

CONFIG = ViTConfig(image=32, patch=4, channels=1, width=48, depth=4, heads=3, classes=10)
# The graph is run op by op: so small a model gains no time from Inductor, and compiles at once.
OPTIONS = {"ratio": 0.6, "lowering": "eager"}


def merged(model: nn.Module) -> nn.Module:
    """The model on merged tokens; parameters are shared, so that training it trains the model."""
    return torch.compile(model, backend="pitome", options=OPTIONS)


@torch.no_grad()
def accuracy(model: nn.Module, data: Digits) -> float:
    """Share of test images answered right."""
    answers = model(data.test_images).argmax(-1)
    return (answers == data.test_labels).double().mean().item()


def main(config: ViTConfig = CONFIG, epochs: int = 5, more: int = 2) -> None:
    """Train, merge, train on; the accuracy after each step."""
    torch.manual_seed(0)
    data, recipe = load_digits(), Recipe(epochs=epochs)
    model = VisionTransformer(config)
    with one_thread():
        train(model, data, recipe)
        print(f"dense: {accuracy(model, data):.1%}")
        print(f"merged, off the shelf: {accuracy(merged(model), data):.1%}")
        recipe = replace(recipe, epochs=more, lr=recipe.lr / 2)
        control = copy.deepcopy(model)
        train(control, data, recipe)
        print(f"merged, after more epochs without merging: {accuracy(merged(control), data):.1%}")
        train(merged(model), data, recipe)
        print(f"merged, after as many epochs with merging: {accuracy(merged(model), data):.1%}")


if __name__ == "__main__":
    main()

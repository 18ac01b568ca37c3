"""LLaVA with fewer image tokens: what the vision tower merged is one token of the language model.

    python examples/llava.py     (pip install transformers)

The tower is what LLaVA makes of an image: an earlier layer of CLIP, without the class token,
through the projector. Transformed with ``outputs="merged"`` it returns the groups of patches that
are left. The prompt gets a placeholder for each, in the order of their first patches, and each has
the position of its first patch, so that the text is as far from the image as it was.

Sizes are handed on: log(size) is added to the attention scores of each group, so that it draws the
attention its patches would draw together. Otherwise an image would weigh less beside the text the
more it is merged. So the language model computes what it would if it read all patches, each in the
place of its group; the example checks that. (``generate`` takes 2D masks alone: there, leave it.)

The weights are random, and the image is a board of 6×6 colours, many of whose patches are alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import pitome_fx
from pitome_fx.measuring.timing import interleaved

Llava = transformers.LlavaForConditionalGeneration
BEFORE, AFTER, IMAGE = torch.arange(1, 6), torch.arange(6, 26), 999
"""The text around the image, and the placeholder for one token of it."""


def small_llava(width: int, layers: int) -> Llava:
    """Random weights; nothing is downloaded. 336 pixels in patches of 14 are 576 image tokens."""
    size = {"hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 3}
    clip = transformers.CLIPVisionConfig(image_size=336, patch_size=14, num_hidden_layers=5, **size)
    size = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4}
    text = transformers.LlamaConfig(vocab_size=1000, num_hidden_layers=layers, **size)
    whole = {"vision_config": clip, "text_config": text, "image_token_index": IMAGE}
    return Llava(transformers.LlavaConfig(**whole)).eval()


class Tower(nn.Module):
    """Pixels (B, 3, H, W) → image tokens (B, N, C), as the language model takes them."""

    def __init__(self, llava: Llava) -> None:
        super().__init__()
        self.vision = llava.model.vision_tower
        self.projector = llava.model.multi_modal_projector
        self.layer = llava.config.vision_feature_layer

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.vision(pixels, output_hidden_states=True).hidden_states[self.layer]
        return self.projector(hidden[:, 1:])


def prompt(count: int) -> Tensor:
    """(1, L) the text around an image of so many tokens."""
    return torch.cat([BEFORE, torch.full((count,), IMAGE), AFTER])[None]


def prefill(llava: Llava, image: Tensor, places: Tensor, sizes: Tensor) -> Tensor:
    """Logits (1, V) of what follows the prompt.

    Args:
        image: (1, M, C) image tokens.
        places: (1, M) the patch in whose position each is.
        sizes: (1, M) how many of the N patches each stands for.
    """
    ids = prompt(image.shape[1])
    embeddings = llava.get_input_embeddings()(ids).masked_scatter((ids == IMAGE)[..., None], image)
    dense = torch.arange(prompt(int(sizes.sum())).shape[1])[None]
    before, patches, after = dense.tensor_split((len(BEFORE), -len(AFTER)), 1)
    positions = torch.cat([before, patches.gather(1, places), after], 1)
    weights = F.pad(sizes, (len(BEFORE), len(AFTER)), value=1.0).log()
    later = positions[:, None, :] > positions[:, :, None]
    mask = weights[:, None, :].masked_fill(later, -torch.inf)[:, None]
    inputs = {"inputs_embeds": embeddings, "attention_mask": mask, "position_ids": positions}
    return llava(**inputs, logits_to_keep=1).logits[:, -1]


def change(logits: Tensor, others: Tensor) -> str:
    """How far logits are from others, for their length."""
    return f"{float((logits - others).norm() / others.norm()):.1e}"


@torch.no_grad()
def main(width: int = 256, layers: int = 6, ratio: float = 0.7, rounds: int = 10) -> None:
    """Prefill with all image tokens, and with those that are left."""
    torch.manual_seed(0)
    llava = small_llava(width, layers)
    pixels, other = (F.interpolate(torch.randn(1, 3, 6, 6), 336) for _ in range(2))
    tower = pitome_fx.transform(Tower(llava), (pixels,), ratio=ratio, outputs="merged")

    def dense(pixels: Tensor = pixels) -> Tensor:
        return llava(prompt(576), pixels, logits_to_keep=1).logits[:, -1]

    def merged() -> Tensor:
        tokens, groups = tower(pixels)
        tokens, groups = groups.in_order(tokens)
        return prefill(llava, tokens, groups.first_members(), groups.sizes)

    tokens, groups = tower(pixels)
    print(f"{groups}; prompt of {prompt(576).shape[1]} → {prompt(tokens.shape[1]).shape[1]} tokens")
    lifted, places = groups.lift(tokens), groups.lift(groups.first_members())
    wanted = pitome_fx.transform(Tower(llava), (pixels,), ratio=ratio)(pixels)
    print(f"lifted, the image tokens are those of dense outputs: {torch.equal(lifted, wanted)}")
    whole = prefill(llava, lifted, places, torch.ones(places.shape))
    print(f"reading all patches instead changes the logits by {change(merged(), whole)}")
    print(f"merging changes them by {change(merged(), dense())}")
    print(f"another image changes them by {change(dense(other), dense())}")
    times = interleaved({"dense": dense, "merged": merged}, rounds=rounds)
    for name in ("dense", "merged"):
        print(f"image and prefill, {name}: {times.spread(name).show(1e3, ' ms')}")
    print(f"speed-up {times.speedup('dense', 'merged').show()}")


if __name__ == "__main__":
    main()

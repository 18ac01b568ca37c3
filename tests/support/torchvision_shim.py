"""Makes the CUDA build of torchvision importable beside a CPU-only torch.

The extension library of that build does not load without CUDA, and `import torchvision` then stops
at two operators whose schemas only the extension defines. Nothing in the zoo calls them.

It lives among the tests because the library imports neither timm nor torchvision of its own accord;
of the examples and benchmarks only the one on BERT needs a torchvision that loads, or none.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None  # the operators live as long as this object


def define_missing_ops() -> None:
    """Define `torchvision::nms` and `torchvision::qnms` unless torchvision brings them itself.

    Call it before torchvision is imported, directly or through timm. Calling it again is harmless.
    """
    global _library
    if _library is not None or _extension_loads():
        return
    _library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _library.define(name + _SCHEMA)


def _extension_loads() -> bool:
    """Whether torchvision's own operators are or can be loaded; true also where it is absent."""
    if hasattr(torch.ops.torchvision, "nms"):
        return True
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    extension = next(Path(spec.origin).parent.glob("_C*"), None)
    if extension is None:
        return False
    try:
        torch.ops.load_library(extension)
    except OSError:
        return False
    return True

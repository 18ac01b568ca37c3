"""How long the first call takes: dense, merged as a whole graph, and merged by regions.

Every compile runs in a process of its own with an empty cache, and then again with the cache that
it left. CPU seconds are those of the process and of the compilers that it starts, from the call
to its result; imports and the making of the model are not in them.

    python benchmarks/compile_time.py [--models ViT-S/16 …] [--depths 6 12 24 48] [--whole-up-to 12]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

# A script sees its own folder only; `examples` and `benchmarks` lie beside each other.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.digits_vit import VisionTransformer, ViTConfig
from pitome_fx.measuring.timing import header, machine

HOW: dict[str, dict[str, Any] | None] = {
    "dense": None,
    "whole": {"regions": False},
    "regions": {"regions": True},
}
FLOPS = 0.6
"""The default amount: every block has tokens to merge at any depth."""

Built = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]


def vit(width: int, heads: int) -> Callable[[int], Built]:
    """A ViT with patches of 16 on one image of 224 pixels."""

    def build(depth: int) -> Built:
        config = ViTConfig(224, 16, 3, width, depth, heads, 1000)
        return VisionTransformer(config), (torch.randn(1, 3, 224, 224),), {}

    return build


def bert(depth: int) -> Built:
    """BERT-base on four texts of 128 tokens, padded."""
    from transformers import BertConfig, BertModel

    mask = torch.ones(4, 128, dtype=torch.long)
    mask[1:, 90:] = 0
    ids = torch.randint(0, 1000, (4, 128))
    return (
        BertModel(BertConfig(num_hidden_layers=depth)),
        (),
        {
            "input_ids": ids,
            "attention_mask": mask,
        },
    )


def whisper(depth: int) -> Built:
    """The encoder of Whisper-base on one window of 30 seconds."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=512, encoder_layers=depth, encoder_attention_heads=8, encoder_ffn_dim=2048
    )
    return WhisperEncoder(config), (torch.randn(1, 80, 3000),), {}


MODELS: dict[str, Callable[[int], Built]] = {
    "ViT-Ti/16": vit(192, 3),
    "ViT-S/16": vit(384, 6),
    "ViT-B/16": vit(768, 12),
    "ViT-L/16": vit(1024, 16),
    "BERT-base, padded": bert,
    "Whisper-base encoder": whisper,
}


@dataclass(frozen=True)
class Measured:
    """Seconds of one first call.

    Attributes:
        cpu, wall: with an empty cache.
        warm: wall, in another process with the cache left behind.
    """

    cpu: float
    wall: float
    warm: float


def main() -> None:
    """Measure everything asked for, dense and merged side by side."""
    args = parse_args()
    if args.worker:
        print(json.dumps(first_call(*args.worker)))
        return
    console = Console(highlight=False)
    console.print(header())
    wanted = [
        (model, depth, how)
        for model in args.models
        for depth in args.depths
        for how in HOW
        if how != "whole" or depth <= args.whole_up_to
    ]
    found = {
        (model, depth, how): measure(model, depth, how)
        for model, depth, how in track(wanted, "compiling", console=Console(stderr=True))
    }
    for model in args.models:
        console.print(table(model, {key[1:]: m for key, m in found.items() if key[0] == model}))
    if args.json:
        rows = [{"model": m, "depth": d, "how": h, **asdict(x)} for (m, d, h), x in found.items()]
        args.json.write_text(json.dumps({"machine": machine(), "seconds": rows}, indent=2))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", choices=MODELS, default=["ViT-S/16", "ViT-B/16"])
    parser.add_argument("--depths", nargs="*", type=int, default=[6, 12, 24, 48])
    parser.add_argument("--whole-up-to", type=int, default=12, help="depth (default 12)")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(model: str, depth: int, how: str) -> Measured:
    """One compile in a fresh process with an empty cache, and one with a warm cache."""
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = (in_fresh_process(model, depth, how, cache) for _ in range(2))
    return Measured(cold["cpu"], cold["wall"], warm["wall"])


def in_fresh_process(model: str, depth: int, how: str, cache: str) -> dict[str, float]:
    """What a worker measured."""
    command = [sys.executable, __file__, "--worker", model, str(depth), how]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def first_call(model: str, depth: str, how: str) -> dict[str, float]:
    """CPU and wall seconds of the first call of a compiled model."""
    import torch._inductor.compile_fx  # not what is measured

    import pitome_fx  # noqa: F401

    torch.manual_seed(0)
    built, args, kwargs = MODELS[model](int(depth))
    options = HOW[how]
    if options is None:
        compiled = torch.compile(built.eval())
    else:
        given = {"flops": FLOPS, "strict": True, **options}
        compiled = torch.compile(built.eval(), backend="pitome", options=given)
    cpu, wall = cpu_seconds(), time.perf_counter()
    with torch.no_grad():
        compiled(*args, **kwargs)
    return {"cpu": cpu_seconds() - cpu, "wall": time.perf_counter() - wall}


def cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def table(model: str, found: dict[tuple[int, str], Measured]) -> Table:
    """Seconds by depth, and the ratios to dense."""
    result = Table(title=f"{model}: first call, seconds", title_justify="left")
    for name in ("blocks", "compiled", "CPU", "÷ dense", "wall", "warm start"):
        result.add_column(name, justify="left" if name == "compiled" else "right")
    for (depth, how), own in found.items():
        dense = found[depth, "dense"].cpu
        numbers = (f"{own.cpu:.1f}", f"{own.cpu / dense:.2f}", f"{own.wall:.1f}", f"{own.warm:.1f}")
        result.add_row(str(depth), how, *numbers)
    return result


if __name__ == "__main__":
    main()

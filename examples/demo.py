"""Train a small ViT on digits, run it on merged tokens, see what merged, measure the speed.

Run it with `make demo`, or `python examples/demo.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

# A script sees its own folder only; `examples` and `benchmarks` lie beside each other.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pitome_fx
import pitome_fx.testing
from examples.digits_vit import (
    DIGITS,
    VIT_B16,
    Digits,
    Recipe,
    VisionTransformer,
    checkpoint_path,
    load_digits,
    trained_digits_vit,
)
from examples.token_map import caption, group_sizes, grouped, ink, shaded
from pitome_fx.measuring.timing import Spread, header, interleaved
from pitome_fx.options import DEFAULT_FLOPS

Options = Mapping[str, Any]

console = Console(highlight=False)
DEFAULT: Options = {}
SETTINGS: tuple[Options, ...] = (DEFAULT, *({"ratio": r} for r in (0.95, 0.9, 0.8, 0.7)))
LARGE: Options = {"ratio": 0.9}


def main() -> None:
    """The whole demo, in the order of its printed sections."""
    args = parse_args()
    torch.manual_seed(0)
    console.print(header())
    data = load_digits()
    model = digits_model(data)
    with torch.no_grad():
        show_accuracy(model, data)
        section("What the pass did: pitome_fx.explain(model, (images,))")
        print(pitome_fx.explain(model, (data.test_images,)))
        show_maps(model, data)
        if args.rounds:
            show_speed(model, data.test_images, args.rounds)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="timed rounds, 0 for no timing")
    return parser.parse_args()


def section(title: str) -> None:
    """A heading."""
    console.print()
    console.rule(f"[bold]{title}", align="left")


def name_of(options: Options) -> str:
    """Options as a reader would write them."""
    given = ", ".join(f"{key}={value}" for key, value in options.items())
    return given or f"flops={DEFAULT_FLOPS} (default)"


def digits_model(data: Digits) -> VisionTransformer:
    """The trained digits model in eval mode."""
    section("A small ViT on scikit-learn's handwritten digits")
    cached = checkpoint_path(DIGITS, Recipe()).exists()
    model, training = trained_digits_vit(data)
    console.print(
        f"{len(data.train_labels)} training images, {len(data.test_labels)} test images, "
        f"{DIGITS.grid**2} patches + 1 class token, {DIGITS.depth} blocks"
    )
    source = "from the cache; its training took" if cached else "trained for"
    console.print(f"{source} {training.seconds:.0f} s, {training.epochs:.1f} epochs")
    if training.stopped_early:
        console.print(
            f"[bold]Stopped by the limit of {Recipe().max_seconds:.0f} s[/] after "
            f"{training.epochs:.1f} of {Recipe().epochs} epochs: accuracy may be below its best."
        )
    return model


def show_accuracy(model: VisionTransformer, data: Digits) -> None:
    """Test accuracy without and with merging; no weights change and nothing is trained again."""
    section("Accuracy on the test images, off the shelf")
    table = Table("options", "tokens left", "FLOPs kept", "accuracy", "answers changed")
    answers = model(data.test_images).argmax(-1)
    table.add_row("dense", str(1 + DIGITS.grid**2), "100%", accuracy(answers, data), "-")
    for options in track(SETTINGS, "compiling", console=console, transient=True):
        report = pitome_fx.explain(model, (data.test_images,), **options)
        if options is DEFAULT:
            merged = torch.compile(model, backend="pitome")
        else:
            # The same rewritten graph, run op by op: it spares the compile time of each row.
            merged = pitome_fx.transform(model, (data.test_images,), **options)
        merged_answers = merged(data.test_images).argmax(-1)
        table.add_row(
            name_of(options),
            str(report.blocks[-1].tokens_after),
            f"{report.flops_after / report.flops_before:.0%}",
            accuracy(merged_answers, data),
            f"{int((merged_answers != answers).sum())} of {len(answers)}",
        )
    console.print(table)
    console.print(
        f"A ratio is kept per block: about ratio^{DIGITS.depth} of the tokens are left at the end."
    )


def accuracy(answers: Tensor, data: Digits) -> str:
    """Share of right answers (B,), in percent."""
    return f"{(answers == data.test_labels).double().mean():.1%}"


def show_maps(model: VisionTransformer, data: Digits) -> None:
    """Where the merged tokens went, over the first test image of three classes and in numbers."""
    section("Where the merged tokens went")
    merged = pitome_fx.transform(model, (data.test_images,))
    logits, assignments = pitome_fx.testing.run_recorded(merged, data.test_images)
    # Token 0 is the class token, which never merges.
    after = {
        f"after merge {i + 1}": assignments[i][:, 1:]
        for i in sorted({0, len(assignments) // 2, len(assignments) - 1})
    }
    console.print(
        "One sign per patch: patches with the same letter are one token (A is the largest), "
        "a dot is a patch that is still alone."
    )
    for label in (0, 3, 7):
        index = int((data.test_labels == label).nonzero()[0])
        show_digit(data.test_images[index, 0], {k: g[index] for k, g in after.items()})
        console.print(f"a {label}, answered with {int(logits[index].argmax())}")
    show_group_sizes(assignments[-1][:, 1:], data.test_images)


def show_digit(image: Tensor, after: Mapping[str, Tensor]) -> None:
    """An image (S, S) beside the map of its patch groups (N,) after some of the merges."""
    table = Table("image", *after, box=None, padding=(0, 3, 0, 0))
    maps = [grouped(groups, DIGITS.grid) for groups in after.values()]
    table.add_row(shaded(image, DIGITS.grid), *maps)
    table.add_row("", *(caption(groups) for groups in after.values()))
    console.print()
    console.print(table)


def show_group_sizes(groups: Tensor, images: Tensor) -> None:
    """Means over all images of the size of a patch's group (B, N), for empty and inked patches."""
    sizes, inked = group_sizes(groups).double(), ink(images, DIGITS.grid)
    console.print(f"\nOver all {len(images)} test images, after the last merge:")
    for name, chosen in (("background", sizes[~inked]), ("ink", sizes[inked])):
        console.print(
            f"  {name:<10}{len(chosen) / sizes.numel():5.0%} of patches; "
            f"{(chosen == 1).double().mean():.0%} of them alone, "
            f"in groups of {chosen.mean():.1f} on average"
        )


def photographs(size: int) -> Tensor:
    """Four crops of scikit-learn's two sample photographs: (4, 3, size, size), ImageNet scale."""
    from sklearn.datasets import load_sample_images

    crops = []
    for photo in load_sample_images().images:
        image = torch.tensor(photo).permute(2, 0, 1)[None].float() / 255
        scale = size / min(image.shape[-2:])
        image = F.interpolate(
            image, scale_factor=scale, mode="bilinear", antialias=True, align_corners=False
        )
        crops += [image[..., :size, :size], image[..., -size:, -size:]]
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return (torch.cat(crops) - mean) / std


def show_speed(model: VisionTransformer, images: Tensor, rounds: int) -> None:
    """Dense against merged for the digits model and at ViT-B/16 size, medians [quartiles]."""
    section("Speed: torch.compile(model) against backend='pitome', both lowered by Inductor")
    table = Table("model", "batch", "dense, ms", "merged, ms", "speed-up", "FLOPs", box=SIMPLE)
    photos, large = photographs(VIT_B16.image), VisionTransformer(VIT_B16).eval()
    table.add_row("digits", *speed_row(model, images[:1], DEFAULT, rounds))
    table.add_row("digits", *speed_row(model, images, DEFAULT, rounds))
    table.add_row("ViT-B/16", *speed_row(large, photos, LARGE, rounds))
    console.print(table)
    console.print(
        f"Medians \\[quartiles] of {rounds} interleaved rounds. FLOPs is their ratio, dense over "
        "merged: the speed-up if time were arithmetic alone. "
        f"Digits: {name_of(DEFAULT)}; ViT-B/16: {name_of(LARGE)}.\n"
        "The ViT-B/16 is the same code in a larger size, with random weights: fed photographs, it "
        "shows what merging costs and saves in time, and nothing about accuracy.\n"
        "A tiny model has little to gain: much of the few milliseconds that one digit takes is the "
        "fixed cost of each op, and merging adds ops. Only a large batch hides that."
    )


def speed_row(model: VisionTransformer, images: Tensor, options: Options, rounds: int) -> list[str]:
    """Compile the model both ways, time both in turn on the same images, and compare."""
    # Dynamo keeps at most eight compiled forms of one function, and all models share `forward`.
    torch.compiler.reset()
    report = pitome_fx.explain(model, (images,), **options)
    compiled = {
        "dense": torch.compile(model),
        "merged": torch.compile(model, backend="pitome", options=dict(options)),
    }
    for name, call in compiled.items():
        start = time.perf_counter()
        with console.status(f"Inductor compiles the {name} model for images {[*images.shape]}"):
            call(images)
        took = time.perf_counter() - start
        console.print(f"{[*images.shape]}: first {name} call took {took:.0f} s, compiling")
    with console.status("timing") as status:
        timings = interleaved(
            {name: partial(call, images) for name, call in compiled.items()},
            rounds=rounds,
            on_round=lambda done: status.update(f"timed {done} of {rounds} rounds"),
        )
    return [
        str(len(images)),
        milliseconds(timings.spread("dense")),
        milliseconds(timings.spread("merged")),
        timings.speedup("dense", "merged").show(),
        f"{report.flops_before / report.flops_after:.2f}",
    ]


def milliseconds(seconds: Spread) -> str:
    """Seconds as milliseconds, with decimals where they matter."""
    return seconds.show(1e3, digits=0 if seconds.median > 0.05 else 2)


if __name__ == "__main__":
    main()

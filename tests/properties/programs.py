"""Hypothesis strategies that draw whole programs and options for the pass.

What is drawn first is what a failure shrinks to: the plain form of everything comes first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from pitome_fx import ALGORITHMS
from tests.properties import (
    lending,
    mixing,
    outputs,
    readouts,
    residuals,
    routing,
    several,
    spellings,
    writes,
)
from tests.properties.attention import SHARED, SPELLINGS
from tests.properties.build import build
from tests.properties.description import (
    Again,
    Attention,
    Frames,
    Join,
    Lend,
    Mix,
    Mlp,
    Options,
    Parallel,
    Program,
    Residual,
    Route,
    Save,
    Step,
    Swap,
    Tap,
    Write,
)
from tests.properties.layers import MLPS, NORMS
from tests.properties.masks import CAUSAL, FREE, OF_PADDING

__all__ = ["build", "options", "programs"]

rarely = st.sampled_from([False] * 5 + [True])
"""A bool that is mostly False, and shrinks to it."""


def mostly(usual: Any, others: Any, times: int = 3) -> st.SearchStrategy[Any]:
    """One value in most draws, else one of the others."""
    others = list(others)
    return st.sampled_from([usual] * (times * len(others)) + others)


UNDERSTOOD = [name for name in SPELLINGS if name not in ("talking", "linear")]
"""Spellings of attention that the pass can merge at, without a mask at least."""


def masks(padded: bool) -> st.SearchStrategy[str]:
    """A kind of mask; in a program with padding mostly one of padding."""
    if padded:
        return st.sampled_from([*OF_PADDING, *OF_PADDING, "none", "learned", "square"])
    return mostly("none", [*FREE, *FREE, *CAUSAL], 2)


def mask_kinds(spelling: str) -> tuple[str, ...] | None:
    """What a spelling takes for a mask; None for all kinds."""
    if spelling in spellings.LINEAR:
        return ("bool", "none")
    return ("learned", "causal-tril", "bool") if spelling in spellings.SPELLINGS else None


@st.composite
def attentions(draw: st.DrawFn, padded: bool, two: bool) -> Attention:
    """An attention for a program with or without padding and a second stream."""
    spelling = draw(st.sampled_from(["sdpa", "mha", *UNDERSTOOD, *UNDERSTOOD, *SPELLINGS]))
    return Attention(
        spelling=spelling,
        mask=draw(masks(padded)),
        qk_norm=draw(rarely),
        second=draw(mostly("none", ["none", *FREE], 5)),
        shared=draw(mostly("none", [*SHARED], 2)),
        rope=draw(mostly("none", ["halves", "complex"], 2)),
        cross=two and draw(st.booleans()),
        weights=spelling == "mha" and draw(rarely),
    )


orders = mostly("pre", ["post", "sandwich"], 1)
mixed_orders = mostly("pre", ["plain", "post"], 1)
norms = mostly("layer", list(NORMS), 1)
mlps = st.sampled_from(list(MLPS)).map(Mlp)
aliens = st.sampled_from(list(mixing.ALIEN)).map(Mix)
mixes = st.sampled_from([*mixing.KNOWN, *mixing.ACROSS_BATCH]).map(Mix)
lends = st.builds(
    Lend,
    st.sampled_from(list(lending.OPS)),
    st.sampled_from(lending.SHAPES),
    st.sampled_from(list(lending.USES)),
    st.integers(0, 2),
)
FORMS_OF_F: dict[str, Any] = {
    "alien": aliens,
    "mix": mixes,
    "several": st.sampled_from(list(several.KINDS)).map(Mix),
    "lend": lends,
    "route": st.sampled_from(list(routing.KINDS)).map(Route),
}
sums = mostly("add", [*residuals.SPELLINGS, *residuals.IN_PLACE], 2)


@st.composite
def residuals_around(draw: st.DrawFn, f: Any, stream: int) -> Residual:
    """A step around f; what mixes tokens mostly has no residual or a plain one."""
    f = draw(f)
    step = Residual(
        f,
        order=draw(orders if isinstance(f, Attention | Mlp) else mixed_orders),
        spelling=draw(sums),
        norm=draw(norms),
        scale=draw(rarely),
        inplace=draw(rarely),
        stream=stream,
    )
    # PyTorch refuses to add to a tensor a view of itself in another order.
    views = isinstance(f, Mix) and f.kind == "scramble" and step.order == "post"
    return replace(step, inplace=False) if views else step


@st.composite
def blocks(draw: st.DrawFn, padded: bool, two: bool, folds: bool) -> list[Step]:
    """Attention and MLP, in order or parallel, perhaps across two streams or other frames."""
    stream = draw(st.integers(0, 1)) if two else 0
    attention = draw(attentions(padded and stream == 0, two))
    mlp = draw(mlps)
    if draw(rarely):
        steps = [Parallel(attention, mlp, draw(norms), stream)]
    else:
        steps = [draw(residuals_around(st.just(f), stream)) for f in (attention, mlp)]
    count = draw(st.integers(1, 3)) if folds and draw(st.booleans()) else 0
    return [Frames(step, count) for step in steps] if count else steps


@st.composite
def extras(draw: st.DrawFn, two: bool, steps: int) -> Step:
    """Something between two blocks."""
    stream = draw(st.integers(0, 1)) if two else 0
    kind = draw(
        st.sampled_from([*["alien"] * 5, *FORMS_OF_F, "write", "save", "join", "swap", "tap"])
    )
    if kind in FORMS_OF_F:
        return draw(residuals_around(FORMS_OF_F[kind], stream))
    if kind == "write":
        return Write(draw(st.sampled_from(list(writes.KINDS))), stream)
    if kind == "save":
        return Save(stream)
    if kind == "swap":
        return Swap(stream)
    if kind == "tap":
        return Tap(draw(st.sampled_from(list(readouts.KINDS))), stream)
    return Join(draw(st.sampled_from(["add", "cat", "mul", "lerp"])), stream)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A program of one to three blocks with anything between them."""
    batch = draw(st.integers(1, 4))
    two = draw(rarely)
    folds = not two and draw(rarely)
    padded = not folds and draw(mostly(False, [True], 2))
    prefix = draw(mostly(0, [1, 2], 1))
    suffix = draw(mostly(0, [1, 2], 2))
    tokens = draw(
        st.integers(4, 32) | st.integers(1, 64) | st.integers(4, 32) | st.integers(1, 200)
    )
    hidden = ()
    if padded:
        # Some items are padding and nothing else: rows of attention that see no key.
        count = st.integers(0, tokens) | mostly(0, [prefix + tokens + suffix], 3)
        hidden = tuple(draw(st.lists(count, min_size=batch, max_size=batch)))
    steps: list[Step] = []
    skips = draw(rarely)
    if skips:
        steps.append(Save())
    for _ in range(draw(st.integers(1, 3))):
        for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
            steps.append(draw(extras(two, len(steps))))
        if steps and draw(rarely):
            steps.append(Again(draw(st.integers(0, len(steps) - 1))))
        steps += draw(blocks(padded, two, folds))
    for _ in range(draw(st.sampled_from([0, 1]))):
        steps.append(draw(extras(two, len(steps))))
    if skips:
        steps.append(Join(draw(st.sampled_from(["cat", "add"]))))
        steps += draw(blocks(padded, two, folds))
    return Program(
        steps=tuple(steps),
        batch=batch,
        tokens=tokens,
        heads=draw(st.integers(1, 4)),
        head_dim=draw(st.sampled_from([4, 6, 8])),
        layout=draw(mostly("BNC", ["NBC"], 2)),
        frames=draw(st.integers(0, 3)) if folds else 0,
        other=draw(st.integers(4, 32) | st.just(tokens + prefix + suffix)) if two else 0,
        embed=draw(mostly("linear", ["identity", "conv", "ids"], 1)),
        prefix=prefix,
        suffix=suffix,
        positions=draw(st.sampled_from(["none", "before", "after"])),
        hidden=hidden,
        padding=draw(mostly("bool", ["int", "float", "additive"], 1)) if padded else "bool",
        readout=draw(st.sampled_from(list(readouts.KINDS))),
        form=draw(st.sampled_from(list(outputs.FORMS))),
        seed=draw(st.integers(0, 9)),
    )


@st.composite
def options(draw: st.DrawFn) -> Options:
    """Options that ask for some merging."""
    drawn: Options = {"min_tokens": draw(mostly(2, [3, 8, 20], 9))}
    amount = draw(mostly("ratio", ["r", "r", "flops", "schedule"], 3))
    drawn[amount] = draw(AMOUNTS[amount])
    drawn["algorithm"] = draw(st.sampled_from(MERGERS))
    parameters = PARAMETERS.get(drawn["algorithm"])
    if parameters is not None and draw(rarely):
        drawn["algorithm_options"] = draw(parameters)
    for key, values in RARE.items():
        if draw(rarely):
            drawn[key] = draw(values)
    if draw(mostly(True, [False], 3)):
        drawn["pays"] = True
    return drawn


RATIOS = st.sampled_from([0.5, 0.6, 0.75, 0.9, 0.95])
AMOUNTS: dict[str, st.SearchStrategy[Any]] = {
    "ratio": RATIOS,
    "r": st.integers(1, 8),
    "flops": RATIOS,
    "schedule": st.lists(RATIOS | st.just(1.0), min_size=12, max_size=12).map(tuple),
}
"""Of a schedule as many values count as there are blocks."""

MERGERS = ["pitome", "pitome-elu", "pitome-text", "tome"] * 3 + sorted(ALGORITHMS)
ENERGY = st.fixed_dictionaries(
    {},
    optional={
        "margin": st.sampled_from([0.5, -0.5, 0.0, 0.99]),
        "alpha": st.sampled_from([0.0, 3.0]),
    },
)
PARAMETERS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "pitome": ENERGY,
    "pitome-elu": ENERGY,
    "pitome-bsm": ENERGY,
    "pitome-text": st.fixed_dictionaries({"margin": st.sampled_from([0.5, -0.5, 0.0, 0.99])}),
    "tofu": st.fixed_dictionaries({"pruned": st.sampled_from([0.0, 1.0])}),
    "dpc-knn": st.fixed_dictionaries({"neighbours": st.sampled_from([1, 9])}),
}

RARE: dict[str, st.SearchStrategy[Any]] = {
    "metric": st.sampled_from(["keys", "hidden"]),
    "protect": st.integers(0, 3),
    "proportional": st.just(False),
    "blocks": st.sampled_from([(0,), (0, 1), (0, 2), (1,)]),
    "form": st.sampled_from(["aten", "portable"]),
    "round_to": st.sampled_from([2, 3, 8]),
}
"""Options that a sixth of the calls have."""

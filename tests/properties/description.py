"""A transformer program as plain data: what it computes, and nothing of how it is spelled in torch.

Its repr is runnable Python, so that a failing program can be printed, kept and shrunk. Descriptions
are read leniently (a join with nothing saved does nothing), so that every smaller description is a
program too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from tests.properties.residuals import IN_PLACE

Norm = Literal["layer", "rms", "batch", "l2", "none"]
Options = dict[str, Any]


class Short:
    """A dataclass whose repr leaves out what has its default."""

    def __repr__(self) -> str:
        named: Any = fields(self)  # type: ignore[arg-type]
        values = ((f, getattr(self, f.name)) for f in named)
        shown = [f"{f.name}={value!r}" for f, value in values if value != f.default]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What Hypothesis prints."""
        printer.text(repr(self))


@dataclass(frozen=True, repr=False)
class Attention(Short):
    """Queries of a stream attend to keys of the same one or, where there are two, of the other.

    Attributes:
        spelling: a key of ``attention.SPELLINGS`` or ``attention.UNUSUAL``, or ``"mha"`` for
            nn.MultiheadAttention.
        mask: a key of ``masks.MASKS``.
        rope: rotate queries and keys, ``"halves"`` or ``"complex"``.
        second: one more bias, a key of ``masks.MASKS`` too, added to the first.
        shared: how heads share keys and values, a key of ``attention.SHARED``.
        weights: return the attention weights as one more output (``mha`` only).
    """

    spelling: str = "sdpa"
    mask: str = "none"
    qk_norm: bool = False
    rope: str = "none"
    second: str = "none"
    shared: str = "none"
    cross: bool = False
    weights: bool = False


@dataclass(frozen=True, repr=False)
class Mlp(Short):
    """A per-token network; ``kind`` is a key of ``layers.MLPS``."""

    kind: str = "gelu"


@dataclass(frozen=True, repr=False)
class Mix(Short):
    """Something on the token axis that is not attention; ``kind`` is a key of ``mixing.KINDS``."""

    kind: str


@dataclass(frozen=True, repr=False)
class Lend(Short):
    """A parameter takes the stream's dtype, device or shape, or lends it its own.

    Attributes:
        op: a key of ``lending.OPS``.
        shape: which of the stream's dimensions the parameter has, one of ``lending.SHAPES``.
        use: what becomes of the result, a key of ``lending.USES``.
        dim: along which of its dimensions, where the use has one.
    """

    op: str
    shape: str = "1TC"
    use: str = "add"
    dim: int = 1


@dataclass(frozen=True, repr=False)
class Route(Short):
    """Some tokens take another way than others; ``kind`` is a key of ``routing.KINDS``."""

    kind: str


F = Attention | Mlp | Mix | Lend | Route


@dataclass(frozen=True, repr=False)
class Residual(Short):
    """x + f(x), with norms before, after, around or nowhere; ``"plain"`` has no residual.

    Attributes:
        spelling: of the sum, a key of ``residuals.SPELLINGS`` or ``residuals.IN_PLACE``.
        scale: multiply f by a learned vector (LayerScale).
        inplace: ``x += f(x)``, which whoever kept x before will see.
    """

    f: F
    order: Literal["pre", "post", "sandwich", "plain"] = "pre"
    spelling: str = "add"
    norm: Norm = "layer"
    scale: bool = False
    inplace: bool = False
    stream: int = 0


@dataclass(frozen=True, repr=False)
class Parallel(Short):
    """x + attention(n(x)) + mlp(n(x))."""

    attention: Attention
    mlp: Mlp
    norm: Norm = "layer"
    stream: int = 0


@dataclass(frozen=True, repr=False)
class Write(Short):
    """An in-place op on a temporary made of the stream; ``kind`` is a key of ``writes.KINDS``."""

    kind: str
    stream: int = 0


@dataclass(frozen=True, repr=False)
class Save(Short):
    """Keep the stream (the tensor itself, not a copy) for a later ``Join`` or ``Swap``."""

    stream: int = 0


@dataclass(frozen=True, repr=False)
class Swap(Short):
    """Go on from what was saved last, and keep the stream instead: two branches."""

    stream: int = 0


@dataclass(frozen=True, repr=False)
class Join(Short):
    """Combine the stream with what was saved last: long skips, gates."""

    how: Literal["add", "cat", "mul", "lerp"] = "add"
    stream: int = 0


@dataclass(frozen=True, repr=False)
class Again(Short):
    """Run an earlier step once more, with the same weights."""

    step: int


@dataclass(frozen=True, repr=False)
class Tap(Short):
    """One more output in the middle of the program; ``readout`` is a key of ``readouts.KINDS``."""

    readout: str = "tokens"
    stream: int = 0


@dataclass(frozen=True, repr=False)
class Frames(Short):
    """Run a step with the frames of a video, or the views of a scene, folded the other way.

    Where the program has frames in its batch, (B·S, N, C), the step sees (B, S·N, C); where it has
    none, the tokens are cut into ``count`` frames, or as many as divide them: (B·S, N/S, C).
    """

    step: Residual | Parallel
    count: int = 2


Step = Residual | Parallel | Write | Save | Swap | Join | Again | Tap | Frames


@dataclass(frozen=True, repr=False)
class Program(Short):
    """A whole program.

    Attributes:
        layout: tokens are (B, N, C) or (N, B, C) throughout.
        other: tokens of a second stream, which is one more input; 0 for none.
        frames: S of an input (B, S, N, C) that is folded into the batch; 0 for (B, N, C).
        copies: every token of the input is there that many times, to the last bit.
        embed: what makes tokens of the input.
        prefix, suffix: learned tokens put before and behind the others.
        positions: learned positions, added before or after those.
        hidden: padded tokens at the end of each item; () for no padding mask among the inputs.
        padding: what that mask is: (B, T) of what is seen, or (B, 1, 1, T) to be added to scores.
        readout: of every stream at the end, a key of ``readouts.KINDS``.
        form: how the outputs are returned, a key of ``outputs.FORMS``.
        dtype: of weights, inputs and constants; ``"autocast"`` is float32 under bfloat16 autocast.
        seed: of all weights and inputs.
    """

    steps: tuple[Step, ...] = ()
    batch: int = 1
    tokens: int = 8
    heads: int = 1
    head_dim: int = 4
    layout: Literal["BNC", "NBC"] = "BNC"
    other: int = 0
    frames: int = 0
    copies: int = 1
    embed: Literal["linear", "identity", "conv", "ids"] = "linear"
    prefix: int = 0
    suffix: int = 0
    positions: Literal["none", "before", "after"] = "none"
    hidden: tuple[int, ...] = ()
    padding: Literal["bool", "int", "float", "additive"] = "bool"
    readout: str = "tokens"
    form: str = "single"
    dtype: Literal["float64", "float32", "bfloat16", "autocast"] = "float64"
    seed: int = 0

    @property
    def width(self) -> int:
        """C."""
        return self.heads * self.head_dim

    @property
    def total(self) -> int:
        """Tokens of the first stream, special ones included."""
        return self.prefix + self.tokens + self.suffix

    @property
    def dim(self) -> int:
        """Which dimension the tokens are."""
        return self.layout.index("N")

    def length(self, stream: int) -> int:
        """Tokens of a stream."""
        return self.other if self.stream(stream) else self.total

    def stream(self, stream: int) -> int:
        """The number of a stream that exists."""
        return stream if self.other else 0

    def inner(self) -> list[F]:
        """What all steps do."""
        found: list[F] = []
        for step in self.steps:
            step = step.step if isinstance(step, Frames) else step
            if isinstance(step, Residual):
                found.append(step.f)
            elif isinstance(step, Parallel):
                found += [step.attention, step.mlp]
        return found

    def mixers(self) -> list[str]:
        """Kinds of all ``Mix`` and ``Route`` steps."""
        return [f.kind for f in self.inner() if isinstance(f, Mix | Route)]

    def lends(self) -> list[Lend]:
        """All steps that lend something."""
        return [f for f in self.inner() if isinstance(f, Lend)]

    def writes(self) -> bool:
        """Is anything written in place?"""
        steps = [step.step if isinstance(step, Frames) else step for step in self.steps]
        return any(
            isinstance(step, Write)
            or (isinstance(step, Residual) and (step.inplace or step.spelling in IN_PLACE))
            for step in steps
        )

    def attentions(self) -> list[Attention]:
        """All attention steps."""
        return [f for f in self.inner() if isinstance(f, Attention)]

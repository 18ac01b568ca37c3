"""A transformer program as plain data: what it computes, and nothing of how it is spelled in torch.

Its repr is runnable Python, so that a failing program can be printed, kept and shrunk. Descriptions
are read leniently (a join with nothing saved does nothing), so that every smaller description is a
program too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

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
        spelling: a key of ``attention.SPELLINGS``, or ``"mha"`` for nn.MultiheadAttention.
        mask: a key of ``masks.MASKS``.
        rope: rotate queries and keys, ``"halves"`` or ``"complex"``.
        weights: return the attention weights as one more output (``mha`` only).
    """

    spelling: str = "sdpa"
    mask: str = "none"
    qk_norm: bool = False
    rope: str = "none"
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
class Residual(Short):
    """x + f(x), with norms before, after, around or nowhere; ``"plain"`` has no residual.

    Attributes:
        scale: multiply f by a learned vector (LayerScale).
        inplace: ``x += f(x)``, which whoever kept x before will see.
    """

    f: Attention | Mlp | Mix
    order: Literal["pre", "post", "sandwich", "plain"] = "pre"
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


Step = Residual | Parallel | Write | Save | Swap | Join | Again | Tap


@dataclass(frozen=True, repr=False)
class Program(Short):
    """A whole program.

    Attributes:
        layout: tokens are (B, N, C) or (N, B, C) throughout.
        other: tokens of a second stream, which is one more input; 0 for none.
        embed: what makes tokens of the input.
        prefix, suffix: learned tokens put before and behind the others.
        positions: learned positions, added before or after those.
        hidden: padded tokens at the end of each item; () for no padding mask among the inputs.
        padding: what that mask is: (B, T) of what is seen, or (B, 1, 1, T) to be added to scores.
        readout: of every stream at the end, a key of ``readouts.KINDS``.
        form: how the outputs are returned.
        seed: of all weights and inputs.
    """

    steps: tuple[Step, ...] = ()
    batch: int = 1
    tokens: int = 8
    heads: int = 1
    head_dim: int = 4
    layout: Literal["BNC", "NBC"] = "BNC"
    other: int = 0
    embed: Literal["linear", "identity", "conv", "ids"] = "linear"
    prefix: int = 0
    suffix: int = 0
    positions: Literal["none", "before", "after"] = "none"
    hidden: tuple[int, ...] = ()
    padding: Literal["bool", "int", "float", "additive"] = "bool"
    readout: str = "tokens"
    form: Literal["single", "tuple", "dict", "nested"] = "single"
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

    def mixers(self) -> list[str]:
        """Kinds of all ``Mix`` steps."""
        steps = [s.f for s in self.steps if isinstance(s, Residual)]
        return [f.kind for f in steps if isinstance(f, Mix)]

    def writes(self) -> bool:
        """Is anything written in place?"""
        return any(
            isinstance(step, Write) or (isinstance(step, Residual) and step.inplace)
            for step in self.steps
        )

    def attentions(self) -> list[Attention]:
        """All attention steps."""
        found: list[Attention] = []
        for step in self.steps:
            part = step.f if isinstance(step, Residual) else getattr(step, "attention", None)
            if isinstance(part, Attention):
                found.append(part)
        return found

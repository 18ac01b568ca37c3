"""Programs that the library once got wrong, or refused with an error of its own."""

from __future__ import annotations

from tests.properties.description import (
    Attention,
    Frames,
    Join,
    Mix,
    Mlp,
    Options,
    Parallel,
    Program,
    Residual,
    Route,
    Save,
    Swap,
)

BLOCK = (Residual(Attention()), Residual(Mlp()))

FOUND: list[tuple[Program, Options]] = [
    # A bias merged by what each group weighs, and then scores that are unmerged for a second one.
    (
        Program(
            (
                Save(),
                *BLOCK,
                Join("cat"),
                Residual(Attention("wide", mask="learned", second="alibi")),
                Residual(Mlp()),
            ),
            tokens=4,
        ),
        {"min_tokens": 2, "ratio": 0.5, "pays": True},
    ),
    (Program((*BLOCK, Residual(Mix("einsum")))), {"ratio": 0.5, "pays": True}),
    (Program((Residual(Route("soft")), *BLOCK)), {"ratio": 0.5, "pays": True}),
    # Tokens of one axis are cut into frames, merged there, and put together again.
    (
        Program((Frames(Parallel(Attention(), Mlp()), 3), *BLOCK), tokens=39, readout="grid"),
        {"min_tokens": 2, "ratio": 0.5, "pays": True},
    ),
    (
        Program(
            (Residual(Attention("where", mask="learned-padding")), Residual(Mlp())),
            batch=4,
            tokens=29,
            hidden=(2, 2, 2, 2),
        ),
        {"min_tokens": 2, "r": 2, "pays": True},
    ),
    (
        Program((Parallel(Attention(), Mlp()),), batch=3, tokens=32, readout="softmax-pool"),
        {"ratio": 0.5, "proportional": False, "pays": True},
    ),
    (Program((Residual(Mix("chunks")), *BLOCK), tokens=1), {"min_tokens": 2, "ratio": 0.5}),
    (
        Program(
            (Residual(Attention(mask="learned-padding")), Residual(Mlp())) * 2,
            batch=2,
            tokens=6,
            positions="after",
            hidden=(2, 6),
        ),
        {"min_tokens": 2, "r": 1, "algorithm": "tome", "pays": True},
    ),
    # All of an item is padding, and groups count as one token each.
    *(
        (
            Program(
                (*BLOCK, Residual(Attention(spelling, mask="min")), Residual(Mlp())),
                batch=2,
                tokens=26,
                hidden=(26, 15),
            ),
            {"ratio": 0.9, "algorithm": "tome", "proportional": False, "pays": True},
        )
        for spelling in ("sdpa", "einsum")
    ),
    # All of an item is padding, in rows of the lowest float whose mean must be the lowest float.
    (
        Program(
            (*BLOCK, Residual(Attention("bmm", mask="given")), Residual(Mlp())),
            batch=2,
            tokens=17,
            hidden=(17, 0),
        ),
        {"min_tokens": 2, "ratio": 0.5, "pays": True},
    ),
    # All of the only item is padding: every value is NaN, without merging too.
    (
        Program(
            (
                Save(),
                Residual(Attention("matmul", mask="bool"), inplace=True),
                Residual(Mlp()),
                Residual(Attention(mask="bool")),
                Residual(Mlp()),
                Join("cat"),
                Residual(Attention(mask="bool")),
                Residual(Mlp()),
            ),
            tokens=4,
            hidden=(4,),
        ),
        {"min_tokens": 2, "ratio": 0.5, "pays": True},
    ),
    # Masks of one padding, unlike in kind.
    (
        Program(
            (
                *(Residual(Attention(mask="bool")), Residual(Mlp())),
                *(Residual(Attention(mask="min")), Residual(Mlp())) * 2,
            ),
            batch=2,
            tokens=20,
            hidden=(7, 3),
        ),
        {"min_tokens": 2, "ratio": 0.6, "pays": True},
    ),
    # A bias and padding, fused with the heads before they are added.
    *(
        (
            Program(
                (Residual(Attention("baddbmm", mask="learned-padding")), Residual(Mlp())) * 2,
                batch=batch,
                tokens=9,
                heads=heads,
                hidden=(2, 0, 3),
            ),
            {"min_tokens": 2, "ratio": 0.5, "pays": True},
        )
        for batch, heads in ((1, 1), (1, 2), (3, 1), (3, 2))
    ),
    # Attention weights under a bias are summed over keys, and returned too.
    (
        Program(
            (*BLOCK, Residual(Attention("mha", mask="learned", weights=True)), Residual(Mlp())),
            tokens=4,
        ),
        {"min_tokens": 2, "ratio": 0.5, "pays": True},
    ),
    # A block whose results nobody reads.
    (Program((Save(), *BLOCK, Swap(), *BLOCK)), {"min_tokens": 2, "ratio": 0.75, "pays": True}),
    # Of three padding tokens and one other only two can merge, though half would be two pairs.
    (
        Program((Residual(Attention(mask="bool")), Residual(Mlp())), tokens=4, hidden=(3,)),
        {"min_tokens": 2, "ratio": 0.5, "algorithm": "pitome", "pays": True},
    ),
    # A single query that pools tokens, to which a single token was joined.
    (
        Program(
            (Save(), Residual(Attention(mask="bool")), Residual(Mlp()), Join("cat"), *BLOCK),
            tokens=4,
            suffix=1,
            hidden=(0,),
            readout="softmax-pool",
        ),
        {"min_tokens": 2, "ratio": 0.5, "pays": True},
    ),
]

IN_TRAINING: list[tuple[Program, Options]] = [
    # All gradients vanish: of a batch of one its mean is subtracted.
    (
        Program(
            (Residual(Mix("roll")), *BLOCK, Residual(Mix("batch-mean"), order="plain")), tokens=4
        ),
        {"min_tokens": 2, "ratio": 0.5, "pays": True},
    ),
    # All of an item is padding: by the lowest float in one block, after which −∞ makes NaN of it.
    (
        Program(
            (
                Parallel(Attention(mask="bool"), Mlp()),
                Parallel(Attention(mask="min"), Mlp()),
                Residual(Attention("matmul", mask="bool")),
                Residual(Mlp()),
            ),
            batch=3,
            tokens=4,
            hidden=(0, 0, 4),
        ),
        {"min_tokens": 2, "ratio": 0.5, "pays": True},
    ),
    # The functional form of copy_ has no derivative.
    (
        Program((Residual(Mix("roll"), order="post", spelling="copy_"), *BLOCK), tokens=4),
        {"min_tokens": 2, "ratio": 0.5, "pays": True},
    ),
    # NaN weights of a row of which all is hidden come back to a bias by way of −∞.
    (
        Program(
            (
                Residual(Attention(mask="bool")),
                Residual(Mlp()),
                Parallel(Attention("where", mask="bool", second="buckets"), Mlp()),
            ),
            batch=3,
            tokens=4,
            hidden=(0, 0, 4),
        ),
        {"min_tokens": 2, "ratio": 0.5, "pays": True},
    ),
]
"""Programs whose gradients were once wrong."""

IN_NARROW_DTYPES: list[tuple[Program, Options]] = [
    # A mask that is made in half precision inside autocast.
    (
        Program(
            (Residual(Attention(mask="inf")), Residual(Mlp()), *BLOCK),
            batch=2,
            tokens=16,
            hidden=(16, 12),
            seed=5,
        ),
        {"ratio": 0.75, "pays": True, "blocks": [1]},
    ),
    # An in-place add to half precision, inside autocast.
    (
        Program((Residual(Attention()), Residual(Mlp(), scale=True, inplace=True)), seed=2),
        {"min_tokens": 2, "ratio": 0.5, "pays": True},
    ),
]
"""Programs that failed in the dtype of their seed."""

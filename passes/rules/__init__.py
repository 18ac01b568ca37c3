"""Token rules, one file per op family.

    pointwise    element by element, with broadcasting
    lend         what takes a dtype, device or shape from an operand; what is drawn at random
    shape        views and permutations
    slice        select, slice and split
    join         concatenation and stacking
    reduce       sums, means, extrema over dimensions
    normalise    softmax, layer norm, batch norm
    contract     linear, matmul, einsum, convolutions of width 1
    attention    scaled dot product attention, proportional
    index        embeddings and lookups

An op that none of them names is lifted.
"""

from pitome_fx.passes.rules import (
    attention,
    contract,
    index,
    join,
    lend,
    normalise,
    pointwise,
    reduce,
    shape,
    slice,
)
from pitome_fx.passes.tokens.rule import Lift, registered, rule, rule_for

__all__ = [
    "Lift",
    "attention",
    "contract",
    "index",
    "join",
    "lend",
    "normalise",
    "pointwise",
    "reduce",
    "registered",
    "rule",
    "rule_for",
    "shape",
    "slice",
]

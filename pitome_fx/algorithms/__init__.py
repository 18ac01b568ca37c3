"""Merging algorithms: plain torch functions that decide which tokens join which.

One file per algorithm. Each registers itself under the name users give as ``algorithm=``:

    pitome        energy of clusters of similar tokens, ordered split (the paper)
    pitome-elu    the same with a smooth energy, as released for vision
    pitome-text   Gaussian-kernel energy, half split, as released for text
    pitome-bsm    the smooth energy orders, the best edges merge
    pitome-vision pitome-bsm in the first half of the blocks, pitome-elu in the second
    pitome-mean   the mean cosine orders, the best edges merge
    tome          bipartite soft matching on alternate tokens (ToMe)
    tofu          ToMe's pairs, pruned in early blocks, of full norm in later ones (ToFu)
    mctf          similarity, importance and size (MCTF)
    crossget      best edges of the complete graph (CrossGET)
    evit          unimportant tokens fuse into one (EViT)
    gtp           unimportant tokens spread to their neighbours (GTP-ViT)
    msvit         unimportant tokens merge into important ones (Multi-Scale and Token Mergence)
    dpc-knn       clusters around density peaks, once
    ailurus       the same, with distances on the image (AiluRus)
    random        pairs drawn at random
    strided       neighbours in the sequence
"""

from pitome_fx.algorithms.registry import (
    ALGORITHMS,
    Algorithm,
    Match,
    Tokens,
    Weights,
    register,
)

# Registration happens on import; the order is the one shown to users.
from pitome_fx.algorithms import (  # isort: skip
    pitome,
    pitome_elu,
    pitome_text,
    pitome_bsm,
    pitome_vision,
    pitome_mean,
    tome,
    tofu,
    mctf,
    crossget,
    evit,
    gtp,
    msvit,
    dpc_knn,
    ailurus,
    random_pairs,
    strided,
)

_SHIPPED = dict(ALGORITHMS)


def is_shipped(name: str) -> bool:
    """Does the algorithm of that name come with the library?"""
    return name in _SHIPPED and ALGORITHMS.get(name) is _SHIPPED[name]


__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Match",
    "Tokens",
    "Weights",
    "ailurus",
    "crossget",
    "dpc_knn",
    "evit",
    "gtp",
    "is_shipped",
    "mctf",
    "msvit",
    "pitome",
    "pitome_bsm",
    "pitome_elu",
    "pitome_mean",
    "pitome_text",
    "pitome_vision",
    "random_pairs",
    "register",
    "strided",
    "tofu",
    "tome",
]

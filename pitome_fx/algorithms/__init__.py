"""Merging algorithms: plain torch functions that decide which tokens join which.

One file per algorithm. Each registers itself under the name users give as ``algorithm=``:

    pitome       energy of clusters of similar keys, ordered split (the paper; the default)
    pitome_elu   the same with a smooth energy, as released for vision
    pitome_text  Gaussian-kernel energy, half split, as released for text
    tome         bipartite soft matching on alternate tokens (ToMe)
"""

from pitome_fx.algorithms.registry import ALGORITHMS, Algorithm, Match, register

# Registration happens on import; the order is the one shown to users.
from pitome_fx.algorithms import pitome, pitome_elu, pitome_text, tome  # isort: skip

_SHIPPED = dict(ALGORITHMS)


def is_shipped(name: str) -> bool:
    """Does the algorithm of that name come with the library?"""
    return name in _SHIPPED and ALGORITHMS.get(name) is _SHIPPED[name]


__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Match",
    "is_shipped",
    "pitome",
    "pitome_elu",
    "pitome_text",
    "register",
    "tome",
]

"""The spectral claim of PiToMe, as numbers.

Tokens are noisy copies of orthogonal centres. PiToMe's theorem says that the spectral distance of
merging them vanishes with the noise, if clusters differ in size by more than the margin.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pitome_fx import ALGORITHMS, Match, Tokens, spectral
from pitome_fx.spectral import coarsened, lifted, spectrum, weights_of
from tests.support.blocks import by_hand

SIZES = [64, 32, 16, 8, 4, 2, 1, 1]
NOISES = (0.1, 0.01, 0.001)
MARGIN = 0.5
WIDTH = 64


def clusters(sizes: list[int], noise: float, layout: str = "random") -> Tensor:
    """Tokens (N, WIDTH) in clusters of the given sizes.

    Args:
        layout: ``"random"``, or ``"even"`` for the first cluster at all even positions.
    """
    label = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    if layout == "even":
        others = label[sizes[0] :]
        label = torch.stack([label[: sizes[0]], others[torch.randperm(len(others))]], 1).flatten()
    else:
        label = label[torch.randperm(len(label))]
    centres = torch.eye(WIDTH, dtype=torch.float64)[label]
    return centres + noise / WIDTH**0.5 * torch.randn_like(centres)


def _match(algorithm: str, x: Tensor, size: Tensor, k: int) -> Match:
    own = {"margin": MARGIN} if "margin" in ALGORITHMS[algorithm].parameters else {}
    return ALGORITHMS[algorithm].match(Tokens(x, size, None, k), **own)


def groups_after(tokens: Tensor, algorithm: str, steps: Sequence[int]) -> Tensor:
    """The group (N,) of every token after merging ``steps[0]`` tokens, then ``steps[1]``…"""
    x, size = tokens.unsqueeze(0), torch.ones(1, len(tokens), dtype=tokens.dtype)
    group = torch.arange(len(tokens)).unsqueeze(0)
    for k in steps:
        step = _match(algorithm, x, size, k)
        x = torch.ops.pitome.merge(x, size, *step)
        size = torch.ops.pitome.merge_size(size, *step)
        group = torch.ops.pitome.assignment(*step).gather(1, group)
    return group[0]


def distance(tokens: Tensor, algorithm: str, *steps: int) -> float:
    """Spectral distance between the tokens' graph and its coarsening."""
    return float(spectral.distance(tokens, groups_after(tokens, algorithm, steps)))


@pytest.mark.parametrize("layout", ["random", "even"])
@pytest.mark.parametrize(("noise", "expected"), [(0.1, 2e-3), (0.01, 2e-5), (0.001, 2e-7)])
def test_pitome_keeps_the_spectrum(noise: float, expected: float, layout: str) -> None:
    found = distance(clusters(SIZES, noise, layout), "pitome", 48)
    assert found == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("algorithm", ["pitome", "tome"])
def test_distance_falls_with_the_square_of_the_noise(algorithm: str) -> None:
    """For tokens in random order, over several blocks that each merge a tenth."""
    found = [distance(clusters(SIZES, noise), algorithm, 12, 11, 10) for noise in NOISES]
    assert found[0] < 2e-3
    assert found[0] / found[1] == pytest.approx(100, rel=0.2)
    assert found[1] / found[2] == pytest.approx(100, rel=0.2)


def test_tome_stays_away_where_the_biggest_cluster_is_on_one_side_of_its_split() -> None:
    found = [distance(clusters(SIZES, noise, "even"), "tome", 48) for noise in NOISES]
    assert all(0.03 < value < 0.13 for value in found)


def test_pitome_itself_merges_wrongly_where_clusters_are_equal() -> None:
    """32 clusters of 2 break the theorem's condition on sizes; ToMe needs no such condition."""
    tokens = clusters([2] * 32, 0.01)
    assert 0.05 < distance(tokens, "pitome", 8) < 0.15
    assert distance(tokens, "tome", 8) == pytest.approx(1e-5, rel=0.3)


def test_coarse_spectrum_is_part_of_the_lifted_one() -> None:
    """With SUM coarsening; the other eigenvalues are 1. With the mean it does not hold."""
    tokens = clusters(SIZES, 0.3)
    weights, group = weights_of(tokens), groups_after(tokens, "pitome", [40])
    total, size = coarsened(weights, group)
    ones = torch.ones(len(tokens) - len(size), dtype=torch.float64)
    wanted = torch.cat([spectrum(total), ones]).sort().values
    torch.testing.assert_close(spectrum(lifted(weights, group)), wanted, rtol=0, atol=1e-12)

    by_mean = torch.cat([spectrum(total / size.outer(size)), ones]).sort().values
    assert float((by_mean - wanted).abs().max()) > 1e-2


def test_merges_of_a_model_are_measured_where_they_run() -> None:
    """Copies of a few tokens merge without moving the graph; other tokens do not."""
    case = by_hand(pool="none", depth=2)
    distinct = torch.randn(2, 8, 24)
    how = {"ratio": 0.75, "algorithm": "crossget", "metric": "hidden", "min_tokens": 2}
    copies = spectral.of_merges(case.model, (distinct.repeat(1, 2, 1),), **how)
    others = spectral.of_merges(case.model, (torch.randn(2, 16, 24),), **how)
    assert [x.shape for x in copies] == [(2,), (2,)]
    assert all(float(x.max()) < 1e-5 for x in copies)
    assert all(float(x.min()) > 1e-3 for x in others)

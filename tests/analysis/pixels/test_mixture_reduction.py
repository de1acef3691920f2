"""Distributions with fewer components: moments, and what they are merged from."""

import numpy as np
import pytest

from spreadflow.analysis.pixels.mixture_reduction import reduced
from spreadflow.models import Mosaic
from spreadflow.physics import rotation

UNIT = 1e-3
"""η, rad"""

BLUR = 2e-4
"""rad"""


def clusters(n_clusters: int, n_each: int, radius: float) -> tuple[Mosaic, np.ndarray]:
    """Components with random shares within `radius`, rad, of centres that are 1.2 mrad apart or
    more, and the centres.
    """
    rng = np.random.default_rng(3)
    corners = 1.2e-3 * (np.indices((3, 3, 3)).reshape(3, -1).T - 1.0)
    centres = rng.permutation(corners)[:n_clusters]
    away = radius / np.sqrt(3) * rng.uniform(-1, 1, (n_clusters, n_each, 3))
    vectors = (centres[:, None] + away).reshape(-1, 3)
    share = rng.uniform(0.2, 1.0, len(vectors))
    width = rng.uniform(0.05, 0.2, len(vectors))
    mosaic = Mosaic(
        rotation.from_vector(vectors), width, share / share.sum(), eta_rad=np.float64(UNIT)
    )
    return mosaic, centres


def moments(mosaic: Mosaic) -> tuple[float, np.ndarray, float]:
    """The sum of shares, the mean (3,), and the trace of the second moments."""
    vectors = rotation.vector(mosaic.rotations)
    mean = mosaic.share @ vectors
    squares = ((vectors - mean) ** 2).sum(axis=1) + 3 * (UNIT * mosaic.width) ** 2
    return mosaic.share.sum(), mean, mosaic.share @ squares


def density(mosaic: Mosaic, points: np.ndarray) -> np.ndarray:
    """Of rotation vectors at points (n, 3), blurred."""
    variance = (UNIT * mosaic.width) ** 2 + BLUR**2
    vectors = rotation.vector(mosaic.rotations)
    square = ((points[:, None] - vectors) ** 2).sum(axis=-1)
    return np.exp(-0.5 * square / variance) @ (mosaic.share * (2 * np.pi * variance) ** -1.5)


@pytest.mark.parametrize("n", [60, 7, 1])
def test_shares_means_and_second_moments_are_kept(n):
    mosaic, _ = clusters(6, 12, 2e-4)
    few = reduced(mosaic, n, BLUR)
    assert len(few.share) == n
    for before, after in zip(moments(mosaic), moments(few), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-12)


def test_what_lies_together_is_merged():
    """Six clusters become six components, each where its cluster is and as heavy."""
    mosaic, centres = clusters(6, 12, 2e-4)
    few = reduced(mosaic, 6, BLUR)
    away = rotation.vector(few.rotations)[:, None] - centres
    cluster = np.linalg.norm(away, axis=-1).argmin(axis=1)
    assert sorted(cluster) == list(range(6))
    np.testing.assert_allclose(few.share, mosaic.share.reshape(6, 12).sum(axis=1)[cluster])
    assert np.linalg.norm(away[np.arange(6), cluster], axis=1).max() < 1e-4


def test_the_distribution_changes_little_while_components_are_merged_within_the_blur():
    """∫|p − old p| over points drawn from the old one: 2 would be another distribution."""
    mosaic, _ = clusters(6, 12, 2e-4)
    rng = np.random.default_rng(5)
    component = rng.choice(len(mosaic.share), 4000, p=mosaic.share)
    sigma = np.hypot(UNIT * mosaic.width[component], BLUR)
    vectors = rotation.vector(mosaic.rotations)[component]
    points = vectors + sigma[:, None] * rng.standard_normal((4000, 3))
    old = density(mosaic, points)

    def change(n: int) -> float:
        return np.abs(density(reduced(mosaic, n, BLUR), points) / old - 1.0).mean()

    changes = [change(n) for n in (36, 12, 6, 3)]
    assert (np.diff(changes) > 0).all()
    assert changes[0] < 0.02
    assert changes[2] < 0.1
    assert changes[3] > 0.5


def test_reduced_in_steps_is_reduced_at_once():
    mosaic, _ = clusters(6, 12, 2e-4)
    at_once = reduced(mosaic, 9, BLUR)
    in_steps = reduced(reduced(mosaic, 30, BLUR), 9, BLUR)
    for one, other in zip(at_once, in_steps, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-12)


def test_pairs_are_merged_in_the_order_of_their_losses():
    """Against all pairs looked at anew each time."""
    mosaic, _ = clusters(3, 8, 4e-4)
    x = list(rotation.vector(mosaic.rotations))
    v = list((UNIT * mosaic.width) ** 2 + BLUR**2)
    w = list(mosaic.share)
    while len(w) > 5:
        best = (np.inf, None, None, None)
        for i in range(len(w)):
            for j in range(i):
                total = w[i] + w[j]
                square = ((x[i] - x[j]) ** 2).sum()
                both = (w[i] * v[i] + w[j] * v[j]) / total + w[i] * w[j] * square / 3 / total**2
                loss = total * np.log(both) - w[i] * np.log(v[i]) - w[j] * np.log(v[j])
                if loss < best[0]:
                    best = (loss, i, j, both)
        _, i, j, both = best
        total = w[i] + w[j]
        x[j] = (w[i] * x[i] + w[j] * x[j]) / total
        v[j] = both
        w[j] = total
        for column in (x, v, w):
            del column[i]
    few = reduced(mosaic, 5, BLUR)
    np.testing.assert_allclose(np.sort(few.share), np.sort(w), rtol=1e-9)
    np.testing.assert_allclose(np.sort((UNIT * few.width) ** 2 + BLUR**2), np.sort(v), rtol=1e-6)


def test_components_without_a_share_go_first():
    mosaic, _ = clusters(2, 4, 2e-4)
    empty = mosaic._replace(share=np.where(np.arange(8) == 3, 0.0, mosaic.share))
    few = reduced(empty, 20, BLUR)
    np.testing.assert_allclose(few.share, np.delete(empty.share, 3))

"""Mosaics: components that are merged."""

import numpy as np
import pytest

from spreadflow.models import Mosaic
from spreadflow.physics import mosaic, rotation


def test_merged_components_have_the_mean_and_the_variance_of_the_old_ones():
    rng = np.random.default_rng(3)
    step = 1e-4
    place = np.indices((9, 9, 9)).reshape(3, -1).T - 4
    share = rng.random(len(place))
    fine = Mosaic(
        rotation.from_vector(step * place),
        np.full(len(place), 0.1),
        share / share.sum(),
        np.float64(1e-3),
    )
    coarse = mosaic.merged(fine, 2 * step)

    def moments(of):
        v = rotation.vector(of.rotations)
        mean = of.share @ v
        return mean, of.share @ (((v - mean) ** 2).sum(axis=1) + 3 * (1e-3 * of.width) ** 2)

    assert len(coarse.share) < len(place) / 3
    assert coarse.share.sum() == pytest.approx(1.0)
    for old, new in zip(moments(fine), moments(coarse), strict=True):
        assert new == pytest.approx(old, rel=1e-6, abs=1e-12)
    assert len(mosaic.merged(fine, step).share) == len(place)

"""From points to pixels that count, beside convolutions of whole images."""

import numpy as np
import pytest
from scipy.ndimage import convolve
from scipy.sparse import csr_matrix

from spreadflow.analysis import sampling
from spreadflow.models import Shoeboxes
from spreadflow.physics import layout, noise

BBOX = np.array([[3, 12, 5, 11], [40, 47, 0, 15]])
KERNELS = {"fiber": noise.fibre_kernel(0.3, 0.2, 3), "gauss": noise.gauss_kernel(0.3, 0.2, 2)}


def boxes(rng) -> Shoeboxes:
    """Two, a fifth of their pixels masked."""
    n = int(((BBOX[:, 1] - BBOX[:, 0]) * (BBOX[:, 3] - BBOX[:, 2])).sum())
    return Shoeboxes(np.zeros((2, 3), int), np.array([0, 1]), BBOX, np.zeros(n), rng.uniform(size=n) > 0.2)


@pytest.mark.parametrize("psf", KERNELS)
@pytest.mark.parametrize("oversample", [1, 3])
def test_points_become_pixels_that_share_their_light(psf, oversample):
    """Masked pixels exist and shine; those around a shoebox do not."""
    rng = np.random.default_rng(1)
    some, kernel = boxes(rng), KERNELS[psf]
    footprints = layout.rectangles(some.panel, some.bbox, oversample)
    values = rng.exponential(size=int(footprints.n_points.sum()))
    whole, start = [], 0
    for fast0, fast1, slow0, slow1 in BBOX:
        height, width = slow1 - slow0, fast1 - fast0
        stop = start + height * width * oversample**2
        fine = values[start:stop].reshape(height, oversample, width, oversample)
        whole.append(convolve(fine.mean(axis=(1, 3)), kernel, mode="constant").ravel())
        start = stop
    expected = np.concatenate(whole)[some.valid]
    made = sampling.means(some, oversample, len(values) + 7, kernel)
    values = np.append(values, np.zeros(7))
    np.testing.assert_allclose(made @ values, expected, rtol=1e-12)
    np.testing.assert_allclose((made @ csr_matrix(values[:, None])).toarray()[:, 0], expected, rtol=1e-12)
    alone = sampling.means(some, oversample, len(values), np.ones((1, 1)))
    np.testing.assert_allclose(alone @ values, sampling.means(some, oversample, len(values)) @ values, rtol=1e-12)


def test_points_that_are_not_lit_need_no_matrix():
    rng = np.random.default_rng(2)
    some, kernel = boxes(rng), KERNELS["fiber"]
    lit = np.array([5, 6, 90, 200])
    values = np.zeros(len(some.valid) * 4)
    values[lit] = 10.0
    every, few = (sampling.means(some, 2, len(values), kernel, chosen) for chosen in (None, lit))
    np.testing.assert_allclose(few @ values, every @ values, rtol=1e-12)
    assert few.matrices[-1].nnz < 0.1 * every.matrices[-1].nnz and (every @ values).max() > 0.4


def test_an_image_keeps_its_light_but_for_what_leaves_it():
    image = np.zeros((20, 30))
    image[10, 12] = 100.0
    made = sampling.spread(image, KERNELS["gauss"])
    assert made.sum() == pytest.approx(100.0 * KERNELS["gauss"].sum(), rel=1e-12)
    np.testing.assert_allclose(made[8:13, 10:15], 100.0 * KERNELS["gauss"], atol=1e-12)

"""A point spread undone, beside convolutions of whole images."""

import numpy as np
import pytest
from scipy.ndimage import convolve

from spreadflow.analysis.pixels import point_spread
from spreadflow.models import Shoeboxes
from spreadflow.physics import noise

BBOX = np.array([[3, 33, 5, 29], [40, 61, 0, 27]])
KERNELS = {"fiber": noise.fibre_kernel(0.1, 0.2, 5), "gauss": noise.gauss_kernel(0.15, 0.2, 5)}


def boxes(images: list[np.ndarray], valid: np.ndarray | None = None) -> Shoeboxes:
    photons = np.concatenate([image.ravel() for image in images])
    valid = np.ones(len(photons), dtype=bool) if valid is None else valid
    return Shoeboxes(np.zeros((2, 3), int), np.array([0, 1]), BBOX, photons, valid)


def spots(rng) -> list[np.ndarray]:
    """On a sloping background, two pixels wide, in the middle of each shoebox."""
    out = []
    for fast0, fast1, slow0, slow1 in BBOX:
        slow, fast = np.mgrid[: slow1 - slow0, : fast1 - fast0]
        away = ((slow - slow.mean() - 0.3) ** 2 + (fast - fast.mean() + 0.2) ** 2) / 2.0
        out.append(200.0 + slow - 0.5 * fast + 4e3 * rng.uniform(0.5, 1.5) * np.exp(-away))
    return out


@pytest.mark.parametrize("psf", KERNELS)
def test_photons_come_back_to_where_they_were_counted(psf):
    """Exactly where shoeboxes go on as mirror images; where they go on as planes, but for their
    outermost pixels.
    """
    images = spots(np.random.default_rng(1))
    kernel = KERNELS[psf]
    every = np.ones(sum(image.size for image in images), dtype=bool)
    lost = 1.0 - kernel.sum()
    mirrored = [convolve(image, kernel, mode="reflect") + lost * image.mean() for image in images]
    made = point_spread.undone(boxes(mirrored), every, kernel)
    np.testing.assert_allclose(made.photons, boxes(images).photons, rtol=1e-9)
    for image in images:
        wide = np.pad(image, 5, mode="reflect", reflect_type="odd")
        shown = [point_spread.spread(wide, kernel)[5:-5, 5:-5] + lost * image.mean()] * 2
        one = boxes(shown)._replace(bbox=np.tile([0, image.shape[1], 0, image.shape[0]], (2, 1)))
        back = point_spread.undone(one, np.ones(2 * image.size, bool), kernel).photons[: image.size]
        assert np.abs(back.reshape(image.shape) - image)[2:-2, 2:-2].max() < 0.02 * np.sqrt(200.0)
        assert np.abs(shown[0] - image).max() > 300


@pytest.mark.parametrize("psf", KERNELS)
def test_noise_is_that_of_counting_and_of_more_readout(psf):
    """Of each pixel by itself; before, neighbours shared it."""
    rng = np.random.default_rng(2)
    kernel = KERNELS[psf]
    images = spots(np.random.default_rng(1))
    z = []
    before = []
    growth = point_spread.growth(kernel)
    for _ in range(60):
        counted = [
            convolve(rng.poisson(image).astype(float), kernel, mode="reflect") for image in images
        ]
        read = boxes([image + 3.0 * rng.standard_normal(image.shape) for image in counted])
        made = point_spread.undone(read, np.ones(len(read.valid), bool), kernel)
        model = boxes(images).photons
        z.append((made.photons - model) / np.sqrt(model + (3.0 * growth) ** 2))
        before.append(read.photons - model)
    assert 1.1 < growth < 2.5
    of_boxes = [
        np.array(some)[:, : images[0].size].reshape(-1, *images[0].shape) for some in (z, before)
    ]
    of_boxes = [some - some.mean(axis=0) for some in of_boxes]
    assert of_boxes[0].std() == pytest.approx(1.0, abs=0.02)
    after, shared = ((some[:, 1:] * some[:, :-1]).mean() / some.var() for some in of_boxes)
    assert abs(after) < 0.05 < 0.1 < shared, "what is left is of the readout"


def test_pixels_that_recorded_nothing_take_their_neighbours_with_them():
    """Whatever is written in them; pixels farther away are as they would be without, within their
    noise.
    """
    rng = np.random.default_rng(3)
    kernel = KERNELS["fiber"]
    images = spots(np.random.default_rng(1))
    shown = boxes(
        [convolve(rng.poisson(image).astype(float), kernel, mode="reflect") for image in images]
    )
    recorded = rng.uniform(size=len(shown.valid)) > 0.01
    foreign = rng.uniform(size=len(shown.valid)) > 0.1
    every = point_spread.undone(shown._replace(valid=foreign), np.ones_like(recorded), kernel)
    outermost = np.concatenate(
        [np.pad(np.zeros(np.array(i.shape) - 2), 1, constant_values=1).ravel() for i in images]
    )
    np.testing.assert_array_equal(every.valid, foreign & (outermost == 0))
    holes = [np.where(recorded, shown.photons, garbage) for garbage in (np.nan, 1e6)]
    made, same = (
        point_spread.undone(shown._replace(photons=p, valid=foreign), recorded, kernel)
        for p in holes
    )
    np.testing.assert_array_equal(made.photons, same.photons)
    fast = BBOX[0, 1] - BBOX[0, 0]
    hole = int(np.flatnonzero(~recorded[: images[0].size])[0])
    assert not made.valid[[hole, hole - 1, hole + 1, hole + fast, hole - fast]].any()
    assert made.valid.sum() > 0.9 * every.valid.sum()
    away = (made.photons - every.photons)[made.valid] / np.sqrt(boxes(images).photons[made.valid])
    assert np.std(away) < 0.1 and np.isfinite(made.photons).all()

"""A point spread undone, beside convolutions of whole images."""

import numpy as np
import pytest
from scipy.ndimage import convolve

from spreadflow.analysis.pixels import point_spread
from spreadflow.models import Shoeboxes
from spreadflow.physics import point_spreads

BBOX = np.array([[3, 33, 5, 29], [40, 61, 0, 27]])
KERNELS = {
    "fiber": point_spreads.fibre_kernel(0.1, 0.2, 5),
    "gauss": point_spreads.gauss_kernel(0.15, 0.2, 5),
}


def boxes(images: list[np.ndarray], valid: np.ndarray | None = None) -> Shoeboxes:
    """Both shoeboxes with images (slow, fast)."""
    photons = np.concatenate([image.ravel() for image in images])
    valid = np.ones(len(photons), dtype=bool) if valid is None else valid
    return Shoeboxes(np.zeros((2, 3), int), np.array([0, 1]), BBOX, photons, valid)


def spots(rng) -> list[np.ndarray]:
    """A spot two pixels wide on a sloping background in the middle of each shoebox."""
    out = []
    for fast0, fast1, slow0, slow1 in BBOX:
        slow, fast = np.mgrid[: slow1 - slow0, : fast1 - fast0]
        from_slow = slow - slow.mean() - 0.3
        from_fast = fast - fast.mean() + 0.2
        height = 4e3 * rng.uniform(0.5, 1.5)
        spot = height * np.exp(-(from_slow**2 + from_fast**2) / 2.0)
        out.append(200.0 + slow - 0.5 * fast + spot)
    return out


@pytest.mark.parametrize("psf", KERNELS)
def test_photons_come_back_to_where_they_were_counted(psf):
    """Exactly where shoeboxes go on as mirror images; where they go on as planes, all but those of
    their outermost pixels.
    """
    images = spots(np.random.default_rng(1))
    kernel = KERNELS[psf]
    every = np.ones(sum(image.size for image in images), dtype=bool)
    lost = 1.0 - kernel.sum()
    mirrored = [convolve(image, kernel, mode="reflect") + lost * image.mean() for image in images]
    recovered = point_spread.undone(boxes(mirrored), every, kernel)
    np.testing.assert_allclose(recovered.photons, boxes(images).photons, rtol=1e-9)
    for image in images:
        n_slow, n_fast = image.shape
        wide = np.pad(image, 5, mode="reflect", reflect_type="odd")
        blurred = point_spread.spread(wide, kernel)[5:-5, 5:-5] + lost * image.mean()
        twice = boxes([blurred, blurred])._replace(bbox=np.tile([0, n_fast, 0, n_slow], (2, 1)))
        both = point_spread.undone(twice, np.ones(2 * image.size, bool), kernel).photons
        error = both[: image.size].reshape(image.shape) - image
        assert np.abs(error)[2:-2, 2:-2].max() < 0.02 * np.sqrt(200.0)
        assert np.abs(blurred - image).max() > 300


@pytest.mark.parametrize("psf", KERNELS)
def test_noise_is_that_of_counting_and_of_more_readout(psf):
    """Each pixel has its own; before, neighbours shared it."""
    rng = np.random.default_rng(2)
    kernel = KERNELS[psf]
    images = spots(np.random.default_rng(1))
    model = boxes(images).photons
    growth = point_spread.growth(kernel)
    assert 1.1 < growth < 2.5
    sigma = np.sqrt(model + (3.0 * growth) ** 2)
    after = []
    before = []
    for _ in range(60):
        counted = [counted_and_spread(rng, image, kernel) for image in images]
        read = boxes([image + 3.0 * rng.standard_normal(image.shape) for image in counted])
        recovered = point_spread.undone(read, np.ones(len(read.valid), bool), kernel)
        after.append((recovered.photons - model) / sigma)
        before.append(read.photons - model)

    def of_first_box(draws: list[np.ndarray]) -> np.ndarray:
        photons = np.array(draws)[:, : images[0].size]
        return (photons - photons.mean(axis=0)).reshape(-1, *images[0].shape)

    def correlation(noise_of_box: np.ndarray) -> float:
        return (noise_of_box[:, 1:] * noise_of_box[:, :-1]).mean() / noise_of_box.var()

    assert of_first_box(after).std() == pytest.approx(1.0, abs=0.02)
    left = correlation(of_first_box(after))
    shared = correlation(of_first_box(before))
    assert abs(left) < 0.05 < 0.1 < shared, "what is left is of the readout"


def counted_and_spread(rng, image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Photons of an image counted, then spread."""
    return convolve(rng.poisson(image).astype(float), kernel, mode="reflect")


def test_pixels_that_recorded_nothing_take_their_neighbours_with_them():
    """Whatever is written in them; pixels farther away are as they would be without, within their
    noise.
    """
    rng = np.random.default_rng(3)
    kernel = KERNELS["fiber"]
    images = spots(np.random.default_rng(1))
    spread = boxes([counted_and_spread(rng, image, kernel) for image in images])
    recorded = rng.uniform(size=len(spread.valid)) > 0.01
    valid = rng.uniform(size=len(spread.valid)) > 0.1
    spread = spread._replace(valid=valid)
    whole = point_spread.undone(spread, np.ones_like(recorded), kernel)
    inner = [np.zeros(np.array(image.shape) - 2) for image in images]
    outermost = np.concatenate([np.pad(one, 1, constant_values=1).ravel() for one in inner])
    np.testing.assert_array_equal(whole.valid, valid & (outermost == 0))

    def with_garbage(value: float) -> Shoeboxes:
        photons = np.where(recorded, spread.photons, value)
        return point_spread.undone(spread._replace(photons=photons), recorded, kernel)

    holed = with_garbage(np.nan)
    np.testing.assert_array_equal(holed.photons, with_garbage(1e6).photons)
    width = BBOX[0, 1] - BBOX[0, 0]
    hole = int(np.flatnonzero(~recorded[: images[0].size])[0])
    assert not holed.valid[[hole, hole - 1, hole + 1, hole + width, hole - width]].any()
    assert holed.valid.sum() > 0.9 * whole.valid.sum()
    away = (holed.photons - whole.photons) / np.sqrt(boxes(images).photons)
    assert np.std(away[holed.valid]) < 0.1 and np.isfinite(holed.photons).all()

"""What becomes of captured photons: distributions, the order of the steps, and photons that are
kept.
"""

import numpy as np
import pytest
from scipy.ndimage import convolve
from scipy.stats import chi2, poisson

from spreadflow.physics import noise, point_spreads

READ = {"readout_adu": 0.0, "offset_adu": 0.0, "saturation_adu": 10**9}
MEANS = [
    0.01,
    0.1,
    0.9,
    3.7,
    11.0,
    31.99,
    32.0,
    40.06,
    100.0,
    333.3,
    1000.1,
    2047.9,
    4095.9,
    4096.0,
    1e5,
]
KERNELS = {shape: make(0.1, 0.1, 10) for shape, make in point_spreads.POINT_SPREADS.items()}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def flat(expected: float, n: int = 300) -> np.ndarray:
    return np.full((1, n, n), expected)


def ones(like: np.ndarray) -> np.ndarray:
    return np.ones(like.shape, dtype=np.float32)


# ---------------------------------------------------------------- counting


@pytest.mark.parametrize("mean", MEANS)
def test_counts_are_poisson(mean):
    """χ² of the histogram of two million counts, and their mean."""
    n = 2_000_000
    counts = noise.poisson(rng(5), np.full(n, mean))
    assert counts.mean() == pytest.approx(mean, abs=4.5 * np.sqrt(mean / n))
    lowest, highest = poisson.ppf([1e-5, 1 - 1e-5], mean).astype(int)
    clipped = np.clip(counts, lowest, highest).astype(int)
    observed = np.bincount(clipped - lowest, minlength=highest - lowest + 1)
    cumulative = poisson.cdf(np.arange(lowest, highest), mean)
    expected = n * np.diff(cumulative, prepend=0.0, append=1.0)
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert 1e-4 < chi2.sf(statistic, len(expected) - 1) < 1 - 1e-4


def test_rare_counts():
    """More than 3 photons where 0.1 are expected: 3.8e-6 of the pixels; 5 σ of 700 photons."""
    for mean, limit in ((0.1, 3), (700.0, 835)):
        rare = np.count_nonzero(noise.poisson(rng(1), np.full(8_000_000, mean)) > limit)
        expected = 8_000_000 * poisson.sf(limit, mean)
        assert abs(rare - expected) < 4.5 * np.sqrt(expected), (mean, rare, expected)


@pytest.mark.parametrize("mean", [0.0, 5.0, 60.0])
def test_alias_table_holds_its_probabilities(mean):
    n = 128
    of_mean = poisson.pmf(np.arange(n), mean)
    even = np.full(n, 1 / n)
    table = noise.alias_table(np.stack([of_mean, even]))
    for row, probabilities in zip(table, (of_mean / of_mean.sum(), even), strict=True):
        own_share = (row >> 7) / 2.0**25
        other = row & 127
        from_others = np.bincount(other, weights=1 - own_share, minlength=n)
        np.testing.assert_allclose((own_share + from_others) / n, probabilities, atol=n * 2.0**-32)


def test_each_pixel_has_its_own_mean():
    """A ramp across all tables and into NumPy's part, over several blocks: z of each pixel is of
    variance 1.
    """
    ramp = np.geomspace(0.5, 5e4, 400_000).reshape(2, 200, 1000)
    counts = noise.poisson(rng(2), ramp)
    assert counts.shape == ramp.shape and counts.dtype == np.float32
    z = ((counts - ramp) / np.sqrt(ramp)).reshape(20, -1)  # z has a fourth moment of 3 + 1/mean
    assert np.abs(z.mean(axis=1)).max() < 4 / np.sqrt(20_000)
    assert np.abs(z.var(axis=1) - 1).max() < 4 * np.sqrt(4 / 20_000)


def test_neighbours_and_shots_are_independent():
    shots = [noise.poisson(rng(seed), flat(50.0, 500))[0] for seed in (1, 2)]
    z = (np.stack(shots) - 50.0) / np.sqrt(50.0)
    first, second = z
    along_fast = first[:, 1:] * first[:, :-1]
    along_slow = first[1:] * first[:-1]
    for product in (along_fast, along_slow, first * second):
        assert abs(product.mean()) < 4 / np.sqrt(product.size)


def test_the_generator_alone_decides():
    image = np.geomspace(1.0, 1e6, 150_000).reshape(1, 300, 500)
    np.testing.assert_array_equal(noise.poisson(rng(3), image), noise.poisson(rng(3), image))
    assert (noise.poisson(rng(4), image) != noise.poisson(rng(3), image)).mean() > 0.5


@pytest.mark.parametrize("wrong", [-1.0, np.nan])
def test_no_photons_of_no_number(wrong):
    with pytest.raises(ValueError):
        noise.poisson(rng(), np.array([1.0, wrong]))


# ---------------------------------------------------------------- the order of the steps


def test_readout_noise_is_normal_and_independent_of_the_counts():
    plain = noise.read_out(rng(), flat(37.0), ones(flat(0)), **READ)
    noisy = noise.read_out(
        rng(), flat(37.0), ones(flat(0)), **READ | {"readout_adu": 4.0, "offset_adu": 10}
    )
    assert plain.dtype == np.int32
    added = (noisy - plain).ravel() - 10.0
    assert added.mean() == pytest.approx(0.0, abs=0.06)
    assert added.var() == pytest.approx(16 + 1 / 12, rel=0.02)
    assert (np.abs(added) > 8.5).mean() == pytest.approx(0.0336, rel=0.1)  # 2 erfc(8.5/(4 √2))/2
    assert abs(np.corrcoef(added, plain.ravel())[0, 1]) < 0.015


def test_gain_comes_after_counting():
    """Photons λ of which each gives g ADU have the variance g²λ; had the gain come first, it would
    be gλ.
    """
    gain = 2 * ones(flat(0))
    frame = noise.read_out(rng(), flat(50.0), gain, quantum_gain=2.5, **READ | {"offset_adu": 10})
    assert frame.mean() == pytest.approx(5 * 50 + 10, rel=0.005)
    assert frame.var() == pytest.approx(25 * 50, rel=0.02)


def test_readout_noise_and_offset_are_not_amplified():
    read = READ | {"readout_adu": 3.0, "offset_adu": 7}
    frame = noise.read_out(rng(), flat(0.0), ones(flat(0)), quantum_gain=100.0, **read)
    assert frame.mean() == pytest.approx(7, abs=0.05)
    assert frame.std() == pytest.approx(3.0, rel=0.02)


def test_flicker_comes_before_counting():
    frame = noise.read_out(rng(), flat(400.0), ones(flat(0)), flicker=0.1, **READ)
    assert frame.mean() == pytest.approx(400, rel=0.002)
    assert frame.var() == pytest.approx(400 + 40**2, rel=0.02)
    faint = noise.read_out(rng(), flat(0.3), ones(flat(0)), flicker=3.0, **READ)
    assert set(np.unique(faint)) >= {0, 1}


def test_gain_map_is_the_same_for_all_shots():
    gain = noise.gain_map(rng(1), (2, 200, 200), 0.01)
    assert gain.mean() == pytest.approx(1.0, abs=2e-4)
    assert gain.std() == pytest.approx(0.01, rel=0.02)
    for seed in (0, 1):
        frame = noise.read_out(rng(seed), np.full(gain.shape, 1e8), gain, **READ)
        np.testing.assert_allclose(frame / 1e8, gain, atol=1e-3)


@pytest.mark.parametrize("shape", KERNELS)
def test_spread_comes_after_counting_and_gain(shape):
    """Noise of neighbours is correlated as the kernel is with itself; a pixel's gain shows in its
    neighbours.
    """
    kernel = KERNELS[shape]
    gain = ones(flat(0))
    gain[0, 150, 150] = 3.0
    frame = noise.read_out(rng(), flat(1e6), gain, kernel=kernel, **READ)[0].astype(float)
    assert frame[150, 151] - frame[100:200].mean() == pytest.approx(2e6 * kernel[10, 11], rel=0.1)
    inner = frame[20:130, 20:-20]
    inner = inner - inner.mean()
    assert inner.var() == pytest.approx(1e6 * (kernel**2).sum(), rel=0.1)
    for lag in (1, 2):
        correlation = (inner[:, lag:] * inner[:, :-lag]).mean() / inner.var()
        of_kernel = (kernel[:, lag:] * kernel[:, :-lag]).sum() / (kernel**2).sum()
        assert correlation == pytest.approx(of_kernel, abs=0.04)


def test_beyond_saturation_a_pixel_reads_one_more():
    expected = np.array([[[10.0, 1e6, 1e12]]])
    read = READ | {"saturation_adu": 5000}
    frame = noise.read_out(rng(), expected, ones(expected), **read)
    assert frame[0, 0, 0] < 100 and list(frame[0, 0, 1:]) == [5001, 5001]
    amplified = noise.read_out(rng(), flat(4000.0), ones(flat(0)), quantum_gain=2.5, **read)
    assert (amplified == 5001).all()


# ---------------------------------------------------------------- point spread


def test_fibre_spread_is_the_published_one():
    kernel = point_spreads.fibre_kernel(0.08, 0.088, 10)
    g = 0.65238 * 0.08 / 0.088

    def density(y, x):
        return g / (2 * np.pi) * (g * g + x * x + y * y) ** -1.5

    for i, j in ((0, 0), (0, 2), (3, 4)):
        exact = over_pixel(density, i, j)
        assert kernel[10 + i, 10 + j] == pytest.approx(exact, rel=1e-4)
    beyond_disc = g / np.hypot(g, 10.0)
    assert kernel.sum() == pytest.approx(1 - beyond_disc, abs=2e-3)
    assert kernel[0, 0] == 0


def test_gaussian_spread_falls_to_half_at_half_its_width():
    kernel = point_spreads.gauss_kernel(0.2, 0.05, 12)
    a = 4 * np.log(2) / 4.0**2

    def density(y, x):
        return a / np.pi * np.exp(-a * (x * x + y * y))

    for i, j in ((0, 0), (0, 2), (3, 4)):
        exact = over_pixel(density, i, j)
        assert kernel[12 + i, 12 + j] == pytest.approx(exact, rel=1e-4)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-9) and kernel[0, 0] == 0


def over_pixel(density, i: int, j: int) -> float:
    """A density integrated over the pixel (i, j) by a fine midpoint rule."""
    step = (np.arange(400) + 0.5) / 400 - 0.5
    return float(density(i + step[:, None], j + step).mean())


@pytest.mark.parametrize("shape", KERNELS)
def test_point_spread_keeps_the_flux(shape):
    image = np.zeros((2, 150, 211), dtype=np.float32)
    image[0, 50, 50] = 1e6
    image[1, 40, 60] = 50.0
    blurred = noise.spread_out(image, KERNELS[shape])
    sums = blurred.sum(axis=(1, 2), dtype=float)
    np.testing.assert_allclose(sums, image.sum(axis=(1, 2)), rtol=1e-6)
    bright, _ = blurred
    assert bright.max() == bright[50, 50]
    assert bright[50, 53] == pytest.approx(bright[53, 50], abs=0.1)


@pytest.mark.stage
@pytest.mark.parametrize(
    ("size", "radius"), [((30, 25), 3), ((76, 152), 10), ((77, 301), 10), ((250, 100), 40)]
)
def test_tiles_do_not_show(size, radius):
    """The same as a sum over all shifts, for panels below and above a tile and kernels of any
    radius.
    """
    image = rng(6).random((2, *size), dtype=np.float32)
    kernel = point_spreads.fibre_kernel(0.3, 0.1, radius) * (
        1 + np.arange(2 * radius + 1) / 50
    )  # not symmetric
    lost = (1 - kernel.sum()) * image.mean(axis=(1, 2), dtype=float)
    plain = np.stack([convolve(panel.astype(float), kernel, mode="constant") for panel in image])
    np.testing.assert_allclose(
        noise.spread_out(image, kernel), plain + lost[:, None, None], atol=2e-6
    )

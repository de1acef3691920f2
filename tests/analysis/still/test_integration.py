"""Recovery of known photons: pulls of simulated spots on tilted Poisson backgrounds, and what
damages a shoebox.
"""

import numpy as np
import pytest

from spreadflow.analysis.still.integration import integrate
from spreadflow.analysis.still.prediction import Predicted
from spreadflow.analysis.still.variance import own_variance
from spreadflow.models import Detector, Noise, ReflectionFlag
from spreadflow.physics.geometry import radial_axes

SHAPE = (1000, 1000)
DETECTOR = Detector(
    origin_mm=np.array([[-100.0, 100.0, -100.0]]),
    fast=np.array([[1.0, 0.0, 0.0]]),
    slow=np.array([[0.0, -1.0, 0.0]]),
    pixel_mm=np.float64(0.2),
    shape=SHAPE,
)
SIGMA = np.array([1.2, 0.5])
"""px, radial and transverse, of the simulated spots"""


def predicted_at(positions, half=2.33 * SIGMA) -> Predicted:
    """Return predictions at positions (n, 2) (fast, slow) whose half sizes hold 98 %, as those of
    `predict` do.
    """
    n = len(positions)
    radial, transverse = half
    columns = {name: np.zeros(n) for name in Predicted._fields}
    columns |= {
        "panel": np.zeros(n, np.int32),
        "fast": positions[:, 0],
        "slow": positions[:, 1],
        "radial_px": np.full(n, radial),
        "transverse_px": np.full(n, transverse),
    }
    return Predicted(**columns)


def grid(rng, step=25, offset=20):
    """Return positions (n, 2) on a loose grid, anywhere within a pixel."""
    axis = np.arange(offset, SHAPE[0] - offset, step, dtype=float)
    fast, slow = np.meshgrid(axis, axis)
    nodes = np.stack([fast.ravel(), slow.ravel()], axis=-1)
    return nodes + rng.uniform(-0.5, 0.5, nodes.shape)


def background(level):
    """Return an image (slow, fast) of a plane that rises by half, plus a broad ring."""
    slow, fast = np.mgrid[: SHAPE[0], : SHAPE[1]]

    from_ring = np.hypot(fast - 500, slow - 500) - 300
    ring = np.exp(-0.5 * (from_ring / 100) ** 2)
    plane = 0.75 + 0.3 * fast / SHAPE[1] + 0.2 * slow / SHAPE[0]
    return level * (plane + 0.5 * ring)


def photons_of(rng, positions, expected):
    """Return an image (slow, fast) of Poisson numbers of photons at normally distributed places: no
    pixel sampling at all.
    """
    n = rng.poisson(expected)
    axes = radial_axes(DETECTOR, np.zeros(len(n), int), *positions.T)

    along = rng.normal(size=(n.sum(), 2)) * SIGMA
    offsets = np.einsum("pk,pkc->pc", along, np.repeat(axes, n, axis=0))
    places = np.repeat(positions, n, axis=0) + offsets
    fast, slow = np.floor(places).astype(int).T

    counts = np.bincount(slow * SHAPE[1] + fast, minlength=SHAPE[0] * SHAPE[1])
    return counts.reshape(SHAPE)


def still(rng, positions, expected, level, readout=1.0, gain=0.0):
    image = rng.poisson(background(level)) + photons_of(rng, positions, expected)
    if gain:
        image = image * (1.0 + gain * rng.normal(size=SHAPE))
    image = image + readout * rng.normal(size=SHAPE)
    return image[None].astype(np.float32)


def shots(rng, expected_of, level, n_shots, **noise):
    """Return pulls, intensities and expected photons of the reflections of several simulated
    stills, joined.
    """
    pulls = []
    intensity = []
    truth = []
    for _ in range(n_shots):
        positions = grid(rng)
        expected = expected_of(len(positions))
        image = still(rng, positions, expected, level, **noise)
        found = integrate(
            image,
            np.ones_like(image, bool),
            predicted_at(positions),
            DETECTOR,
            noise=Noise(noise.get("readout", 1.0), noise.get("gain", 0.0)),
        )
        assert not (found.flags & ReflectionFlag.FAILED).any()
        pulls.append((found.intensity - expected) / found.sigma)
        intensity.append(found.intensity)
        truth.append(expected)
    return np.concatenate(pulls), np.concatenate(intensity), np.concatenate(truth)


@pytest.mark.stage
@pytest.mark.parametrize("level", [0.5, 5.0, 50.0])
def test_zero_intensity_is_unbiased(level):
    rng = np.random.default_rng(11)
    pulls, intensity, _ = shots(rng, np.zeros, level, 5)
    error = 1.0 / np.sqrt(len(pulls))

    assert abs(pulls.mean()) < 0.03
    assert 0.95 < pulls.std() < 1.03, "σ counts a part of upward noise as signal"
    assert abs(intensity.mean()) < 3.0 * intensity.std() * error + 0.02 * intensity.std()


@pytest.mark.stage
@pytest.mark.parametrize("level", [0.5, 5.0, 50.0])
def test_pulls_of_spots(level):
    """I/σ from 1 to 50."""
    rng = np.random.default_rng(12)
    noise = np.sqrt(45 * (level + 1.0))
    pulls, _, _ = shots(rng, lambda n: noise * rng.uniform(1, 60, n), level, 3)

    assert abs(pulls.mean()) < 0.05
    assert 0.95 < pulls.std() < 1.05


@pytest.mark.stage
def test_pulls_of_strong_spots_with_gain_errors():
    """up to 3·10⁵ photons on pixels of 1 % gain error: what is outside the footprint must not
    show.
    """
    rng = np.random.default_rng(13)

    def few(n):
        return np.where(np.arange(n) % 24 == 0, 10.0 ** rng.uniform(4.8, 5.5, n), 300.0)

    pulls, _, truth = shots(rng, few, 5.0, 2, gain=0.01)
    strong = pulls[truth > 1e4]

    assert len(strong) > 100
    assert abs(strong.mean()) < 0.25
    assert 0.8 < strong.std() < 1.2
    assert abs(pulls[truth < 1e4].mean()) < 0.05


POSITION = np.array([[700.3, 420.8]])


NOISE = Noise(readout_photons=1.0, calibration_error=0.01)


def one(image, mask=None, positions=POSITION, noise=NOISE, **options):
    mask = np.ones(image.shape, bool) if mask is None else mask
    return integrate(image, mask, predicted_at(positions), DETECTOR, noise=noise, **options)


def test_exact_on_a_noiseless_plane():
    """A plane is removed to rounding and the sum over the foreground is the sum of the planted
    photons.
    """
    slow, fast = np.mgrid[: SHAPE[0], : SHAPE[1]]
    plane = 3.0 + 0.01 * fast - 0.002 * slow
    image = plane[None].astype(np.float32)
    image[0, 420, 700] += 1000.0
    found = one(image)

    assert found.intensity[0] == pytest.approx(1000.0, abs=1e-3)
    assert found.background[0] == pytest.approx(3.0 + 0.01 * 700.3 - 0.002 * 420.8, abs=0.02)
    assert (found.fast_obs[0], found.slow_obs[0]) == pytest.approx((700.5, 420.5), abs=1e-4)
    assert found.flags[0] == 0


@pytest.mark.parametrize("photons", [60.0, 1e6])
def test_hot_background_pixel(photons):
    rng = np.random.default_rng(14)
    clean = still(rng, POSITION, np.array([500]), 5.0)
    hot = clean.copy()
    hot[0, 413, 700] += photons
    before = one(clean)
    after = one(hot)
    fast0, fast1, slow0, slow1 = after.bbox[0]

    assert fast0 <= 700 < fast1, "the pixel is in the shoebox"
    assert slow0 <= 413 < slow1
    assert abs(before.intensity[0] - after.intensity[0]) < 0.1 * before.sigma[0]


@pytest.mark.stage
def test_unpredicted_neighbour_in_the_background():
    """Another crystal's spot in the frame: its bright pixels are left out."""
    rng = np.random.default_rng(15)
    shifts = []
    for _ in range(10):
        clean = rng.poisson(background(5.0)) + photons_of(rng, POSITION, np.array([500.0]))
        both = clean + photons_of(rng, POSITION + np.array([0.0, 7.0]), np.array([2000.0]))
        alone, beside = (
            one(image[None].astype(np.float32), noise=NOISE._replace(readout_photons=0.0))
            for image in (clean, both)
        )
        shift = beside.intensity[0] - alone.intensity[0]
        shifts.append(shift / alone.sigma[0])

    assert abs(np.mean(shifts)) < 0.5


@pytest.mark.stage
def test_neighbours_know_each_other():
    """A predicted neighbour nearby: neither reflection takes the other's photons, nor calls them
    background.
    """
    rng = np.random.default_rng(16)
    axes = radial_axes(DETECTOR, np.zeros(1, int), *POSITION.T)[0]
    positions = POSITION + np.array([[0.0], [8.0]]) * axes[1]
    pulls = []
    for _ in range(30):
        expected = np.array([300.0, 3000.0])
        image = still(rng, positions, expected, 5.0)
        found = one(image, positions=positions, noise=NOISE._replace(calibration_error=0.0))
        assert not found.flags.any()
        pulls.append((found.intensity - expected) / found.sigma)

    assert np.all(np.abs(np.mean(pulls, axis=0)) < 4.0 / np.sqrt(30))
    assert np.all(np.abs(np.std(pulls, axis=0) - 1.0) < 0.3)


def test_overlap_is_flagged_and_no_photon_counted_twice():
    rng = np.random.default_rng(17)
    positions = POSITION + np.array([[0.0, 0.0], [2.0, 0.0]])
    image = still(rng, positions, np.array([5000.0, 5000.0]), 5.0)
    found = one(image, positions=positions)

    assert np.all(found.flags & ReflectionFlag.OVERLAP)
    assert found.intensity.sum() == pytest.approx(10000.0, rel=0.05)
    assert one(image).flags[0] == 0


def test_masked_row_saturation_and_edges():
    rng = np.random.default_rng(18)
    image = still(rng, POSITION, np.array([5000.0]), 5.0)
    mask = np.ones(image.shape, bool)
    mask[0, 421] = False
    image[0, 421] = np.nan

    assert one(image, mask).flags[0] == ReflectionFlag.MASKED

    mask[0, 421] = True
    image[0, 421] = 5.0
    mask[0, 413] = False
    image[0, 413] = 1e9
    assert one(image, mask).flags[0] == 0, (
        "a bad row that only touches the background costs nothing"
    )
    assert one(image, mask, saturation_photons=300.0).flags[0] == ReflectionFlag.SATURATED

    edge = np.array([[SHAPE[1] - 0.5, 500.0], [SHAPE[1] - 9.0, 600.0]])
    found = one(image, mask, positions=edge)
    assert list(found.flags) == [ReflectionFlag.EDGE | ReflectionFlag.MASKED, ReflectionFlag.EDGE]
    assert np.all(found.bbox[:, 1] == SHAPE[1])
    mask[:] = False
    assert one(image, mask).flags[0] & ReflectionFlag.BACKGROUND
    assert np.isfinite(one(image, mask).intensity).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_a_shadow_over_half_of_the_background_changes_nothing(axis):
    """What is masked may hold anything: the plane is that of the lit half."""
    slow, fast = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = (3.0 + 0.01 * fast - 0.002 * slow)[None].astype(np.float32)
    image[0, 420, 700] += 1000.0
    mask = np.ones(image.shape, bool)
    place = (420, 700)[axis]
    shadow = np.s_[0, : place - 5] if axis == 0 else np.s_[0, :, : place - 5]
    mask[shadow] = False
    image[shadow] *= 0.1
    found = one(image, mask)
    assert found.intensity[0] == pytest.approx(1000.0, abs=1e-2)
    assert found.flags[0] == 0


def test_a_panel_that_is_wholly_masked_takes_its_own_reflections_alone():
    twice = DETECTOR._replace(
        origin_mm=np.repeat(DETECTOR.origin_mm, 2, axis=0),
        fast=np.repeat(DETECTOR.fast, 2, axis=0),
        slow=np.repeat(DETECTOR.slow, 2, axis=0),
    )
    image = np.full((2, *SHAPE), 2.0, np.float32)
    image[:, 420, 700] += 500.0
    image[0] = np.nan
    mask = np.ones(image.shape, bool)
    mask[0] = False
    predicted = predicted_at(np.repeat(POSITION, 2, axis=0))._replace(panel=np.array([0, 1]))
    found = integrate(image, mask, predicted, twice, noise=NOISE)

    assert found.flags[0] & ReflectionFlag.FAILED and found.flags[1] == 0
    assert all(np.isfinite(column[0]) for column in (found.intensity, found.sigma))
    assert found.intensity[1] == pytest.approx(500.0, abs=1e-3)


def test_nothing_predicted():
    found = one(np.zeros((1, *SHAPE), np.float32), positions=np.empty((0, 2)))
    assert all(len(column) == 0 for column in found)


def test_panels_are_kept_apart():
    """Two panels, the same pixel coordinates: each reflection sees its own panel."""
    twice = DETECTOR._replace(
        origin_mm=np.array([[-100.0, 100.0, -100.0], [100.0, 100.0, -100.0]]),
        fast=np.repeat(DETECTOR.fast, 2, axis=0),
        slow=np.repeat(DETECTOR.slow, 2, axis=0),
    )
    image = np.full((2, *SHAPE), 2.0, np.float32)
    image[1, 420, 700] += 500.0
    predicted = predicted_at(np.repeat(POSITION, 2, axis=0))._replace(panel=np.array([0, 1]))
    found = integrate(image, np.ones(image.shape, bool), predicted, twice, noise=NOISE)

    np.testing.assert_allclose(found.intensity, [0.0, 500.0], atol=1e-3)
    assert not found.flags.any()


@pytest.mark.stage
def test_observed_centroid_does_not_follow_the_prediction():
    """Predictions half a pixel off: the observed centroid stays with the photons."""
    rng = np.random.default_rng(19)
    positions = grid(rng)
    image = still(rng, positions, np.full(len(positions), 2000.0), 5.0)
    right = one(image, positions=positions)
    wrong = one(image, positions=positions + np.array([0.5, -0.5]))
    shift = np.hypot(wrong.fast_obs - right.fast_obs, wrong.slow_obs - right.slow_obs)

    assert np.nanmean(shift) < 0.01
    error = np.stack([wrong.fast_obs, wrong.slow_obs], axis=1) - positions
    assert np.all(np.abs(np.nanmean(error, axis=0)) < 0.01)
    assert np.nanstd(error) < 0.06


def test_the_signals_own_variance_has_its_limits():
    """I for strong spots, nothing for spots that are not there."""
    pairs = np.meshgrid([1.0, 30.0, 1e4], [-50.0, 0.0, 3.0, 100.0, 1e5])
    rest, intensity = (x.ravel() for x in pairs)
    own = own_variance(intensity, rest)

    assert np.all(own[intensity <= 0] == 0)
    strong = intensity > 1e3 * np.sqrt(rest)
    np.testing.assert_allclose(own[strong], intensity[strong], rtol=1e-4)


def test_sigma_is_that_of_the_background_with_that_of_own_photons():
    rng = np.random.default_rng(19)
    image = rng.poisson(5.0, (1, 900, 900)).astype(np.float32)
    positions = rng.uniform(100, 800, (60, 2))
    found = one(image, positions=positions, noise=Noise(readout_photons=1.0, calibration_error=0.0))
    rest = found.sigma_background**2
    own = own_variance(found.intensity, rest)

    np.testing.assert_allclose(found.sigma**2, rest + own, rtol=1e-12)
    assert (found.sigma_background > np.sqrt(5.0 * found.n_foreground)).mean() > 0.9

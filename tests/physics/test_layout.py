"""What the sparse engine leaves out, against the exact engine, which leaves out nothing."""

from pathlib import Path

import numpy as np
import pytest

from lab import cached
from spreadflow.models import Crystal, Detector, Parameters, Pixels, Spectrum
from spreadflow.physics import bragg, exact, forward, layout, mosaic, rotation, spectrum, unit_cell
from spreadflow.physics.pair_tables import WINDOW, Pairs, rays_by_point
from spreadflow.units import DEG

CELL = unit_cell.radians([67.2, 59.8, 47.2, 90.0, 110.3, 90.0])


def detector(shape=(260, 300), pixel_mm=0.177) -> Detector:
    """Three panels: at 2θ of 15-30°, one that overlaps its shadow from farther away and tilted, one
    at 45°.
    """
    turn = rotation.from_vector(np.array([[0.0, 0.0, 0.0], [0.1, -0.2, 0.3], [0.3, 0.2, -0.1]]))
    return Detector(
        origin_mm=np.array([[20.0, 60.0, -141.7], [-70.0, 20.0, -160.0], [90.0, -20.0, -120.0]]),
        fast=turn[:, :, 0],
        slow=-turn[:, :, 1],
        pixel_mm=pixel_mm,
        shape=shape,
        thickness_mm=0.032,
        attenuation_mm=0.017,
    )


def parameters(
    cell=CELL, n_cells=57.0, eta_deg=0.05, n_domains=25, seed=0, n_channels=100, d_min=1.9
) -> Parameters:
    """A published shot: 100 channels of one SASE pulse, 25 domains; |F|² that differ a lot and
    change with energy.
    """
    rng = np.random.default_rng(seed)
    energies = 7120.0 + 100.0 / n_channels * (np.arange(n_channels) - 0.5 * (n_channels - 1))
    pulse = spectrum.pulse(
        rng,
        energies,
        energy_ev=7120.0,
        envelope_ev=11.0,
        jitter_ev=6.0,
        spike_ev=0.6,
        photons=1e12,
        photons_spread=0.2,
    )
    crystal = Crystal(
        rotation.random(rng) @ unit_cell.reciprocal(cell),
        np.full(3, n_cells),
        np.float64(eta_deg * DEG),
    )
    turns = mosaic.domain_rotations(rng, n_domains, eta_deg * DEG)
    mosaicity = mosaic.domains(turns) if n_domains else mosaic.continuous()
    hkl = unit_cell.all_indices(crystal.A, d_min)
    hkl = hkl[layout.reached(crystal, mosaicity, hkl, pulse)]
    of_nodes = 1e4 * rng.exponential(size=(len(hkl), 1)) ** 2
    changes = 1 + 0.05 * rng.standard_normal((len(hkl), n_channels))
    return Parameters(
        crystal=crystal,
        mosaic=mosaicity,
        scale=93.75,
        beam_mm=0.003,
        spectrum=pulse,
        polarization=1.0,
        detector=detector(),
        hkl=hkl,
        f_squared=of_nodes * changes,
    )


def boxes_of(p: Parameters, image: np.ndarray) -> np.ndarray:
    """Sums of an image over the shoeboxes."""
    boxes, *_ = layout.lay_out(p)
    rows = zip(
        *(getattr(boxes, name) for name in ("panel", "slow0", "height", "fast0", "width")),
        strict=True,
    )
    return np.array([image[k, s : s + h, f : f + w].sum() for k, s, h, f, w in rows])


@pytest.fixture(scope="module", params=["published", "large cell, few channels"])
def both(request):
    """Parameters and the exact image of them; the second crystal's shoeboxes overlap."""
    if request.param == "published":
        p = parameters()
    else:
        cell = unit_cell.radians([140.0, 180.0, 230.0, 90.0, 90.0, 90.0])
        p = parameters(cell, 10.0, 0.2, 6, seed=4, n_channels=11, d_min=3.0)
    also = Path(__file__).read_text() + request.param
    return p, cached("exact_image", lambda: exact.image(p), "spreadflow.physics.exact", also=also)


@pytest.mark.stage
def test_shoebox_sums_and_pixels_are_those_of_the_exact_engine(both):
    p, truth = both
    image = np.zeros_like(truth)
    bragg.add(image, p)
    sums = boxes_of(p, image)
    true_sums = boxes_of(p, truth)
    counts = true_sums > 1e-6 * true_sums.max()
    assert counts.sum() > 20
    # the exact image has tails of brighter reflections elsewhere in every box
    tails = 1e-12 * true_sums.max()
    np.testing.assert_allclose(sums[counts], true_sums[counts], rtol=1e-9, atol=tails)
    is_bright = truth > 1e-6 * truth.max()
    assert is_bright.sum() > 150
    np.testing.assert_allclose(image[is_bright], truth[is_bright], rtol=1e-3)
    assert abs(image.sum() - truth.sum()) < 1e-6 * truth.sum()


def test_the_second_crystal_is_one_whose_shoeboxes_overlap(both):
    p, _ = both
    _, pixels, *_ = layout.lay_out(p)
    key = (pixels.panel * 10000 + np.floor(pixels.slow)) * 10000 + np.floor(pixels.fast)
    _, times = np.unique(key, return_counts=True)
    assert (times > 1).sum() > (100 if p.crystal.n_cells[0] < 20 else -1)


@pytest.mark.stage
def test_a_whole_panel_and_its_parts_hold_the_same():
    """Which panel a cloud is looked for on does not matter: 12 panels side by side against one."""
    p = parameters()
    whole = p.detector._replace(
        origin_mm=p.detector.origin_mm[:1],
        fast=p.detector.fast[:1],
        slow=p.detector.slow[:1],
        shape=(160, 192),
    )
    places = whole.origin_mm + np.arange(12)[:, None] * 16 * whole.pixel_mm * whole.fast
    parts = whole._replace(
        origin_mm=places,
        fast=whole.fast.repeat(12, 0),
        slow=whole.slow.repeat(12, 0),
        shape=(160, 16),
    )
    one = np.zeros((1, 160, 192))
    many = np.zeros((12, 160, 16))
    bragg.add(one, p._replace(detector=whole))
    bragg.add(many, p._replace(detector=parts))
    np.testing.assert_allclose(
        np.concatenate(list(many), axis=1), one[0], rtol=1e-9, atol=1e-12 * one.max()
    )


@pytest.mark.stage
@pytest.mark.parametrize("eta_deg", [0.03, 0.3])
def test_continuous_spread_loses_next_to_nothing(eta_deg):
    """The brightest reflections, every cloud in every pixel of their panel and in every channel."""
    p = parameters(n_domains=0, eta_deg=eta_deg)
    image = np.zeros((3, 260, 300))
    spots = bragg.add(image, p)
    for i in np.argsort(-spots.photons)[:3]:
        node = np.flatnonzero((p.hkl == spots.hkl[i]).all(axis=1))
        alone = p._replace(hkl=p.hkl[node], f_squared=p.f_squared[node])
        slow, fast = (a.ravel() + 0.5 for a in np.indices(p.detector.shape))
        every = Pixels(np.full(len(slow), spots.panel[i], np.int32), fast, slow)
        three = np.indices(
            (len(slow), len(p.mosaic.share), -(-100 // WINDOW)), dtype=np.int32
        ).reshape(3, -1)
        pairs = Pairs(three[0], three[1], WINDOW * three[2])
        rays = rays_by_point(p.detector, p.polarization, every)
        photons = forward.sums(alone, rays, pairs)[0]
        assert spots.photons[i] == pytest.approx(photons.sum(), rel=1e-8)


@pytest.mark.stage
def test_windows_reach_over_uneven_channels():
    """Channels of any spacing: the photons of unevenly spaced channels are those of the exact
    engine.
    """
    p = parameters()
    rng = np.random.default_rng(2)
    channels = np.sort(rng.choice(100, 41, replace=False))
    energies = p.spectrum.energies_ev[channels] + rng.uniform(-0.4, 0.4, 41)
    pulse = Spectrum(energies, p.spectrum.photons[channels])
    p = p._replace(spectrum=pulse, f_squared=p.f_squared[:, channels])
    image = np.zeros((3, 260, 300))
    truth = exact.image(p)
    bragg.add(image, p)
    assert truth.max() > 10
    np.testing.assert_allclose(image, truth, atol=1e-9 * truth.max())


@pytest.mark.stage
def test_adaptive_subpixels_hold_the_photons_of_fine_ones():
    """Sharp spots on coarse pixels: as many photons as with 8 x 8 points, where one point a pixel
    is wrong.
    """
    p = parameters(n_cells=120.0, eta_deg=0.01)
    coarse, adaptive, fine = (np.zeros((3, 260, 300)) for _ in range(3))
    single = bragg.add(coarse, p)
    chosen = bragg.add(adaptive, p, oversample=None)
    truth = bragg.add(fine, p, oversample=8)
    bright = truth.photons > 1e-3 * truth.photons.max()

    def off(spots):
        return np.abs(spots.photons[bright] / truth.photons[bright] - 1).max()

    assert off(chosen) < 0.003 < 0.02 < off(single)
    boxes, *_ = layout.lay_out(p, None)
    assert 1 < boxes.oversample.max() <= layout.FINEST


@pytest.mark.stage
@pytest.mark.parametrize(("oversample", "most"), [(1, 0.08), (2, 0.006)])
def test_averages_over_squares_are_those_of_many_points(oversample, most):
    """Median error of the pattern of a bright spot, on panels of any tilt; at points it is many
    times larger.
    """
    p = parameters()
    images = {}
    for edge, n in ((1.0 / oversample, oversample), (0.0, oversample), (0.0, 10)):
        images[edge, n] = np.zeros((3, 260, 300))
        spots = bragg.add(images[edge, n], p._replace(edge_px=edge), oversample=n)
    averaged, plain, truth = images.values()
    bright = spots.photons > 1e-4 * spots.photons.max()
    assert set(spots.panel[bright]) == {0, 1, 2}
    centres = zip(spots.panel[bright], spots.slow[bright], spots.fast[bright], strict=True)
    boxes = []
    for panel, slow, fast in centres:
        rows = slice(max(int(slow) - 8, 0), int(slow) + 8)
        columns = slice(max(int(fast) - 8, 0), int(fast) + 8)
        boxes.append((panel, rows, columns))

    def errors(image):
        norm = np.linalg.norm
        return np.array([norm(image[box] - truth[box]) / norm(truth[box]) for box in boxes])

    averaged_errors = errors(averaged)
    plain_errors = errors(plain)
    for panel in range(3):
        on_panel = spots.panel[bright] == panel
        median = np.median(averaged_errors[on_panel])
        assert median < most
        assert np.median(plain_errors[on_panel]) > 5 * median
    assert averaged.sum() == pytest.approx(truth.sum(), rel=3e-2 if oversample == 1 else 1e-3)


@pytest.mark.stage
def test_nothing_lit_lays_out_nothing():
    p = parameters()
    dark = p._replace(f_squared=0.0 * p.f_squared)
    image = np.zeros((3, 260, 300))
    assert len(bragg.add(image, dark).panel) == 0 and image.max() == 0
    without = p._replace(hkl=p.hkl[:0], f_squared=p.f_squared[:0])
    assert len(bragg.add(image, without).panel) == 0 and image.max() == 0
    pixels = Pixels(np.zeros(4, np.int32), np.arange(4.0), np.arange(4.0))
    assert not np.any(exact.photons(without, pixels))


def test_channels_in_another_order_are_refused():
    p = parameters()
    turned = p._replace(
        spectrum=Spectrum(*(a[::-1] for a in p.spectrum)), f_squared=p.f_squared[:, ::-1]
    )
    with pytest.raises(ValueError, match="ascending"):
        bragg.add(np.zeros((3, 260, 300)), turned)


@pytest.mark.stage
def test_points_of_oversampled_pixels_are_the_pixels_of_a_finer_detector():
    p = parameters()
    panel = np.array([0, 0, 0])
    bbox = np.array([[0, 150, 0, 130], [140, 300, 100, 260], [20, 21, 200, 207]])
    fine = p._replace(
        detector=p.detector._replace(
            pixel_mm=p.detector.pixel_mm / 3, shape=tuple(3 * n for n in p.detector.shape)
        )
    )
    ours = layout.within(p, panel, bbox, oversample=3)
    theirs = layout.within(fine, panel, 3 * bbox)
    whole = [1.0, 1.0, 1.0, 1.0 / 9.0]  # the solid angle is a pixel's
    np.testing.assert_allclose(whole * ours[0], theirs[0], rtol=1e-9, atol=1e-18)
    ours = forward.sums(p, *ours)[0]
    expected = 9 * forward.sums(fine, *theirs)[0]
    assert expected.max() > 0
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6 * expected.max())

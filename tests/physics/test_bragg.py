"""Bragg photons against the published formulas written out pixel by pixel, and against limits that
are known.
"""

import math

import numpy as np
import pytest

from spreadflow.models import Crystal, Detector, Parameters, Spectrum
from spreadflow.physics import bragg, layout, mosaic, response, rotation, unit_cell
from spreadflow.physics.background import background
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.units import HC_EV_ANGSTROM

CELL = unit_cell.radians([60.0, 55.0, 50.0, 90.0, 105.0, 90.0])
ENERGIES = 7100.0 + 8.0 * np.arange(5)
WATER = [
    (0, 2.57),
    (0.0365, 2.58),
    (0.07, 2.8),
    (0.12, 5),
    (0.162, 8),
    (0.18, 7.32),
    (0.2, 6.75),
    (0.216, 6.75),
    (0.236, 6.5),
    (0.28, 4.5),
    (0.3, 4.3),
    (0.345, 4.36),
    (0.436, 3.77),
    (0.5, 3.17),
]
AIR = [(0, 14.1), (0.045, 13.5), (0.174, 8.35), (0.35, 4.78), (0.5, 4.22)]


def crystal(n_cells=30.0, eta=0.003, seed=3) -> Crystal:
    turn = rotation.random(np.random.default_rng(seed))
    return Crystal(
        turn @ unit_cell.reciprocal(CELL),
        np.array([n_cells, 0.9 * n_cells, 1.2 * n_cells]),
        np.float64(eta),
    )


def factors(energies=ENERGIES, d_min=2.2, seed=4) -> StructureFactors:
    """Random structure factors with two sites whose scattering depends on energy."""
    rng = np.random.default_rng(seed)
    hkl = unit_cell.all_indices(unit_cell.reciprocal(CELL), d_min)

    def draw(*shape):
        return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)

    curves = -5.0 + 0.05 * np.arange(len(energies)) + 1j * np.array([[2.0], [3.0]])
    return StructureFactors(hkl, 100 * draw(len(hkl)), 5 * draw(2, len(hkl)), curves)


def pulse(energies=ENERGIES) -> Spectrum:
    return Spectrum(energies, 1e11 * (1.0 + 0.5 * np.sin(np.arange(len(energies)))))


def detector(
    shape=(100, 100), pixel=0.2, origin=((5.0, 30.0, -60.0), (26.0, 30.3, -59.0))
) -> Detector:
    """Two tilted panels at 2θ of about 30°."""
    turn = rotation.from_vector(np.array([[0.02, -0.01, 0.03], [-0.03, 0.02, -0.01]]))
    fast, slow = turn[:, :, 0], -turn[:, :, 1]
    return Detector(np.array(origin), fast, slow, pixel, shape, 0.032, 0.017)


def parameters(
    c, f, s, d, *, turns=None, beam_mm=0.003, scale=90.0, polarization=1.0
) -> Parameters:
    """turns: of the mosaic domains; None = the continuous distribution."""
    of = mosaic.continuous() if turns is None else mosaic.domains(turns)
    rows = layout.reached(c, of, f.hkl, s)
    return Parameters(c, of, scale, beam_mm, s, polarization, d, f.hkl[rows], f.squared(rows))


def expected(c, f, s, d, *, oversample=1, dtype="float64", **changes):
    image = np.zeros((d.n_panels, *d.shape))
    return image, bragg.add(
        image, parameters(c, f, s, d, **changes), oversample=oversample, dtype=dtype
    )


def interpolated(table, x):
    """Cubic through the two points on either side of x, Lagrange's formula."""
    i = max(j for j in range(len(table) - 1) if table[j][0] <= x)
    first = min(max(i - 1, 0), len(table) - 4)
    points = table[first : first + 4]
    total = 0.0
    for a, (xa, ya) in enumerate(points):
        term = ya
        for b, (xb, _) in enumerate(points):
            if a != b:
                term *= (x - xb) / (xa - xb)
        total += term
    return total


def published(c, f, s, d, turns, oversample, polarization, scale, beam_mm, water_mm, air_mm):
    """The whole expected image by plain loops over panels, pixels, sub-pixels, channels and
    domains.
    """
    n_slow, n_fast = d.shape
    image = np.zeros((d.n_panels, n_slow, n_fast))
    amplitude2 = {
        tuple(h): np.abs(v) ** 2
        for h, v in zip(f.hkl.tolist(), f.at(np.arange(len(f.hkl))), strict=True)
    }
    real_space = [np.linalg.inv(turn @ c.A) for turn in turns]
    na, nb, nc = c.n_cells
    area = (beam_mm * 1e-3) ** 2
    total = sum(s.photons)
    mean_wavelength = HC_EV_ANGSTROM / (sum(s.photons * s.energies_ev) / total)
    steps = len(turns) * oversample**2

    def seen(panel, x, y):
        at = d.origin_mm[panel] + d.fast[panel] * x * d.pixel_mm + d.slow[panel] * y * d.pixel_mm
        distance = math.sqrt(at @ at)
        ray = at / distance
        normal = np.cross(d.fast[panel], d.slow[panel])
        omega = d.pixel_mm**2 * abs(d.origin_mm[panel] @ normal) / distance**3
        capture = 1.0 - math.exp(-d.thickness_mm / (d.attenuation_mm * abs(normal @ ray)))
        cos2 = -ray[2]
        psi = math.atan2(ray[1], ray[0])
        polar = 0.5 * (1 + cos2**2 - polarization * math.cos(2 * psi) * (1 - cos2**2))
        return ray, omega * capture * polar

    for panel in range(d.n_panels):
        for i in range(n_slow):
            for j in range(n_fast):
                value = 0.0
                for sub in range(oversample**2):
                    x, y = (
                        j + (sub % oversample + 0.5) / oversample,
                        i + (sub // oversample + 0.5) / oversample,
                    )
                    ray, weight = seen(panel, x, y)
                    for channel, (e, photons) in enumerate(
                        zip(s.energies_ev, s.photons, strict=True)
                    ):
                        q = (ray + np.array([0.0, 0.0, 1.0])) * e / HC_EV_ANGSTROM
                        for inverse in real_space:
                            h, k, l = inverse @ q
                            h0 = math.ceil(h - 0.5)
                            k0 = math.ceil(k - 0.5)
                            l0 = math.ceil(l - 0.5)
                            r2 = (na * (h - h0)) ** 2 + (nb * (k - k0)) ** 2 + (nc * (l - l0)) ** 2
                            lattice_factor = na * nb * nc * math.exp(-r2 / 0.63)
                            f2 = amplitude2[h0, k0, l0][channel]
                            value += f2 * lattice_factor**2 * photons / area * weight
                image[panel, i, j] = 7.94079248e-30 * scale * value / steps
                ray, weight = seen(panel, j + 0.5, i + 0.5)
                stol = math.sin(0.5 * math.acos(-ray[2])) / mean_wavelength
                for table, density, mw, thick in (
                    (WATER, 1.0, 18.0, water_mm),
                    (AIR, 1.2e-3, 28.0, air_mm),
                ):
                    molecules = area * thick * 1e-3 * density * 1e6 * 6.02214076e23 / mw
                    fluence = total / area
                    image[panel, i, j] += (
                        7.94079248e-30
                        * fluence
                        * molecules
                        * interpolated(table, stol) ** 2
                        * weight
                    )
    return image


@pytest.mark.stage
def test_small_panels_equal_the_published_formulas():
    c = crystal(12.0)
    f = factors()
    s = pulse()
    d = detector(shape=(20, 40), pixel=0.5)
    turns = mosaic.domain_rotations(np.random.default_rng(5), 4, 0.003)
    truth = published(c, f, s, d, turns, 2, 0.8, 1.5e5, 0.003, 0.1, 10.0)
    made, spots = expected(c, f, s, d, turns=turns, polarization=0.8, oversample=2, scale=1.5e5)
    efficiency, sine = response.pixel_map(d, 0.8)
    water_air = np.asarray(
        background(sine, efficiency, HC_EV_ANGSTROM / s.mean_energy_ev, s.photons.sum(), 0.1, 10.0)
    )
    assert made.max() > 2 * water_air.max() and len(spots.panel) >= 4, "the test must see spots"
    np.testing.assert_allclose(made + water_air, truth, rtol=1e-6, atol=1e-6 * water_air.min())


@pytest.mark.parametrize(
    "turns", [None, mosaic.domain_rotations(np.random.default_rng(5), 6, 0.002)]
)
def test_float32_sums_agree_with_float64(turns):
    c = crystal(60.0, 0.002)
    f = factors()
    s = pulse()
    d = detector()
    exact, spots = expected(c, f, s, d, turns=turns)
    single, spots32 = expected(c, f, s, d, turns=turns, dtype="float32")
    np.testing.assert_allclose(single, exact, atol=2e-6 * exact.max())
    np.testing.assert_allclose(spots32.photons, spots.photons, rtol=1e-5)
    np.testing.assert_allclose(spots32.energy_ev, spots.energy_ev, atol=1e-3)


@pytest.mark.stage
def test_closed_form_is_the_limit_of_many_domains():
    c = crystal(25.0, 0.001)
    f = factors()
    s = pulse(7080.0 + 8.0 * np.arange(8))
    f = factors(s.energies_ev)
    d = detector()
    closed, spots = expected(c, f, s, d, oversample=2)
    many = mosaic.domain_rotations(np.random.default_rng(1), 500, 0.001)
    sampled, sampled_spots = expected(c, f, s, d, oversample=2, turns=many)
    strong = spots.photons > 0.1 * spots.photons.max()

    def key(spots):
        return spots.hkl @ [100**2, 100, 1] * 2 + spots.panel

    both, of_closed, of_sampled = np.intersect1d(
        key(spots)[strong], key(sampled_spots), return_indices=True
    )
    assert len(both) == strong.sum() >= 6
    ratio = sampled_spots.photons[of_sampled] / spots.photons[strong][of_closed]
    np.testing.assert_allclose(ratio, 1.0, atol=0.1)
    assert ratio.mean() == pytest.approx(1.0, abs=0.04)
    assert np.abs(closed - sampled).sum() / sampled.sum() < 0.06


@pytest.mark.stage
def test_without_mosaic_spread_closed_form_and_one_domain_agree():
    c = crystal(eta=0.0)
    f = factors()
    s = pulse()
    d = detector()
    closed, _ = expected(c, f, s, d)
    single, _ = expected(c, f, s, d, turns=np.eye(3)[None])
    np.testing.assert_allclose(closed, single, rtol=1e-9, atol=1e-7 * single.max())


@pytest.mark.stage
def test_photons_are_conserved_by_the_boxes():
    """A spot far inside a panel holds what the integral over all directions holds (Gaussian node,
    flat sphere).
    """
    energies = np.array([7100.0])
    turn = rotation.from_vector(np.array([0.4, 0.1, 0.2]))
    c = Crystal(turn @ unit_cell.reciprocal(CELL), np.full(3, 60.0), np.float64(0.0))
    f = factors(energies)
    d = Detector(
        np.array([[-100.0, 100.0, -100.0]]),
        np.array([[1.0, 0, 0]]),
        np.array([[0, -1.0, 0]]),
        0.05,
        (4000, 4000),
    )
    _, spots = expected(
        c,
        f,
        Spectrum(energies, np.array([1e12])),
        d,
        polarization=0.0,
        turns=np.eye(3)[None],
        oversample=3,
    )
    k = energies[0] / HC_EV_ANGSTROM
    q = spots.hkl @ c.A.T
    ray = q + np.array([0, 0, -k])
    length = np.linalg.norm(ray, axis=1)
    normal = ray / length[:, None]
    covariance = 0.63 / 4 / 60.0**2 * c.A @ c.A.T
    sigma2 = np.einsum("ni,ij,nj->n", normal, covariance, normal)
    volume = (
        2
        * np.pi
        * np.sqrt(np.linalg.det(covariance) / sigma2)
        * np.exp(-0.5 * (length - k) ** 2 / sigma2)
    )
    row = {tuple(h): i for i, h in enumerate(f.hkl.tolist())}
    amplitude = f.squared([row[tuple(h)] for h in spots.hkl.tolist()])[:, 0] * 60.0**6
    kahn = 0.5 * (1 + normal[:, 2] ** 2)
    truth = 7.94079248e-30 * 90.0 * 1e12 / 9e-12 * amplitude * volume / k**2 * kahn
    strong = (spots.photons > 1e-3 * spots.photons.max()) & (np.abs(spots.fast - 2000) < 1900)
    strong &= np.abs(spots.slow - 2000) < 1900
    assert strong.sum() > 20
    np.testing.assert_allclose(spots.photons[strong], truth[strong], rtol=0.01)


@pytest.mark.stage
def test_a_panel_cut_in_two_holds_the_same_photons():
    c = crystal(60.0)
    f = factors()
    s = pulse()
    one = Detector(
        np.array([[5.0, 30.0, -60.0]]),
        np.array([[1.0, 0, 0]]),
        np.array([[0, -1.0, 0]]),
        0.1,
        (200, 200),
        0.032,
        0.017,
    )
    two = one._replace(
        origin_mm=np.array([[5.0, 30.0, -60.0], [15.0, 30.0, -60.0]]),
        fast=one.fast.repeat(2, 0),
        slow=one.slow.repeat(2, 0),
        shape=(200, 100),
    )
    whole, _ = expected(c, f, s, one)
    halves, spots = expected(c, f, s, two)
    assert whole.max() > 0 and set(spots.panel) == {0, 1}
    np.testing.assert_allclose(
        np.concatenate(list(halves), axis=1), whole[0], rtol=1e-9, atol=1e-6 * whole.max()
    )


def test_spots_describe_the_image():
    c = crystal(60.0)
    f = factors()
    s = pulse()
    d = detector()
    image, spots = expected(c, f, s, d)
    for panel in range(2):
        mine = spots.panel == panel
        i, j = np.meshgrid(*(np.arange(n) + 0.5 for n in d.shape), indexing="ij")
        assert spots.photons[mine].sum() == pytest.approx(image[panel].sum(), rel=1e-9)
        assert (spots.photons * spots.fast)[mine].sum() == pytest.approx(
            (image[panel] * j).sum(), rel=1e-9
        )
        assert (spots.photons * spots.slow)[mine].sum() == pytest.approx(
            (image[panel] * i).sum(), rel=1e-9
        )
    strong = spots.photons > 0.01 * spots.photons.max()
    q = np.linalg.norm(spots.hkl @ c.A.T, axis=1)[strong]
    at = d.origin_mm[spots.panel] + d.pixel_mm * (d.fast[spots.panel] * spots.fast[:, None])
    at += d.pixel_mm * d.slow[spots.panel] * spots.slow[:, None]
    theta = 0.5 * np.arccos(-at[strong, 2] / np.linalg.norm(at[strong], axis=1))
    np.testing.assert_allclose(
        2 * np.sin(theta) * spots.energy_ev[strong] / HC_EV_ANGSTROM, q, rtol=2e-3
    )  # Bragg


def test_domains_have_the_spread_they_are_told():
    turns = mosaic.domain_rotations(np.random.default_rng(0), 20000, 0.01)
    angles = rotation.angle(turns)
    assert np.sqrt(np.mean(angles**2)) == pytest.approx(0.01, rel=0.02)
    axes = np.stack(
        [
            turns[:, 2, 1] - turns[:, 1, 2],
            turns[:, 0, 2] - turns[:, 2, 0],
            turns[:, 1, 0] - turns[:, 0, 1],
        ]
    )
    axes /= np.linalg.norm(axes, axis=0)
    np.testing.assert_allclose(axes @ axes.T / 20000, np.eye(3) / 3, atol=0.01)

"""Bragg photons against the published formulas written out pixel by pixel, and against limits that
are known.
"""

import math

import numpy as np
import pytest

from by_hand import R_E_SQUARED, ray_and_efficiency, sub_pixels
from spreadflow.models import Crystal, Detector, Parameters, Spectrum
from spreadflow.physics import bragg, layout, mosaic, rotation, unit_cell
from spreadflow.physics.background import background
from spreadflow.physics.pixel_map import pixel_map
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
    return Detector(
        origin_mm=np.array(origin),
        fast=turn[:, :, 0],
        slow=-turn[:, :, 1],
        pixel_mm=pixel,
        shape=shape,
        thickness_mm=0.032,
        attenuation_mm=0.017,
    )


def parameters(
    c, f, s, d, *, turns=None, beam_mm=0.003, scale=90.0, polarization=1.0
) -> Parameters:
    """turns: of the mosaic domains; None = the continuous distribution."""
    mosaicity = mosaic.continuous() if turns is None else mosaic.domains(turns)
    rows = layout.reached(c, mosaicity, f.hkl, s)
    return Parameters(
        crystal=c,
        mosaic=mosaicity,
        scale=scale,
        beam_mm=beam_mm,
        spectrum=s,
        polarization=polarization,
        detector=d,
        hkl=f.hkl[rows],
        f_squared=f.squared(rows),
    )


def expected(c, f, s, d, *, oversample=1, **changes):
    p = parameters(c, f, s, d, **changes)
    image = np.zeros((d.n_panels, *d.shape))
    return image, bragg.add(image, p, oversample=oversample)


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


def published(p: Parameters, f: StructureFactors, oversample: int) -> np.ndarray:
    """The expected Bragg photons by plain loops over panels, pixels, sub-pixels, channels and
    domains. f: also of nodes that `p` does not list.
    """
    f_squared = np.abs(f.at(np.arange(len(f.hkl)))) ** 2
    of_node = dict(zip(map(tuple, f.hkl.tolist()), f_squared, strict=True))
    real_space = [np.linalg.inv(turn @ p.crystal.A) for turn in p.mosaic.rotations]
    fluence = p.spectrum.photons / (p.beam_mm * 1e-3) ** 2
    image = np.zeros((p.detector.n_panels, *p.detector.shape))
    for panel, row, column in np.ndindex(*image.shape):
        for fast, slow in sub_pixels(row, column, oversample):
            ray, efficiency = ray_and_efficiency(p.detector, panel, fast, slow, p.polarization)
            for channel, energy in enumerate(p.spectrum.energies_ev):
                q = (ray + np.array([0.0, 0.0, 1.0])) * energy / HC_EV_ANGSTROM
                for inverse in real_space:
                    h = inverse @ q
                    h0 = np.ceil(h - 0.5).astype(int)
                    r2 = ((p.crystal.n_cells * (h - h0)) ** 2).sum()
                    lattice_factor = np.prod(p.crystal.n_cells) * math.exp(-r2 / 0.63)
                    f2 = of_node[tuple(h0.tolist())][channel]
                    strength = f2 * lattice_factor**2 * fluence[channel]
                    image[panel, row, column] += strength * efficiency
    n_terms = len(real_space) * oversample**2
    return R_E_SQUARED * p.scale * image / n_terms


def published_background(p: Parameters, water_mm: float, air_mm: float) -> np.ndarray:
    """The photons that water and air scatter, by plain loops over panels and pixels."""
    total = sum(p.spectrum.photons)
    mean_energy = sum(p.spectrum.photons * p.spectrum.energies_ev) / total
    image = np.zeros((p.detector.n_panels, *p.detector.shape))
    for panel, row, column in np.ndindex(*image.shape):
        ray, efficiency = ray_and_efficiency(
            p.detector, panel, column + 0.5, row + 0.5, p.polarization
        )
        stol = math.sin(0.5 * math.acos(-ray[2])) / (HC_EV_ANGSTROM / mean_energy)
        for table, density, molecular_weight, thickness_mm in (
            (WATER, 1.0, 18.0, water_mm),
            (AIR, 1.2e-3, 28.0, air_mm),
        ):
            per_area = thickness_mm * 1e-3 * density * 1e6 * 6.02214076e23 / molecular_weight
            strength = R_E_SQUARED * total * per_area * interpolated(table, stol) ** 2
            image[panel, row, column] += strength * efficiency
    return image


@pytest.mark.stage
def test_small_panels_equal_the_published_formulas():
    c = crystal(12.0)
    f = factors()
    s = pulse()
    d = detector(shape=(20, 40), pixel=0.5)
    turns = mosaic.domain_rotations(np.random.default_rng(5), 4, 0.003)
    settings = {"turns": turns, "polarization": 0.8, "scale": 1.5e5}
    p = parameters(c, f, s, d, **settings)
    truth = published(p, f, 2) + published_background(p, 0.1, 10.0)
    bragg_photons, spots = expected(c, f, s, d, oversample=2, **settings)
    efficiency, sine = pixel_map(d, 0.8)
    wavelength = HC_EV_ANGSTROM / s.mean_energy_ev
    pulse_photons = s.photons.sum()
    water_air = np.asarray(background(sine, efficiency, wavelength, pulse_photons, 0.1, 10.0))
    assert bragg_photons.max() > 2 * water_air.max() and len(spots.panel) >= 4, (
        "the test must see spots"
    )
    np.testing.assert_allclose(
        bragg_photons + water_air, truth, rtol=1e-6, atol=1e-6 * water_air.min()
    )


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

    common, row_of_closed, row_of_sampled = np.intersect1d(
        key(spots)[strong], key(sampled_spots), return_indices=True
    )
    assert len(common) == strong.sum() >= 6
    ratio = sampled_spots.photons[row_of_sampled] / spots.photons[strong][row_of_closed]
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
    s = Spectrum(energies, np.array([1e12]))
    d = Detector(
        origin_mm=np.array([[-100.0, 100.0, -100.0]]),
        fast=np.array([[1.0, 0, 0]]),
        slow=np.array([[0, -1.0, 0]]),
        pixel_mm=0.05,
        shape=(4000, 4000),
    )
    unrotated = np.eye(3)[None]
    _, spots = expected(c, f, s, d, polarization=0.0, turns=unrotated, oversample=3)
    k = energies[0] / HC_EV_ANGSTROM
    ray = spots.hkl @ c.A.T + np.array([0, 0, -k])
    length = np.linalg.norm(ray, axis=1)
    normal = ray / length[:, None]
    covariance = 0.63 / 4 / 60.0**2 * c.A @ c.A.T
    sigma2 = np.einsum("ni,ij,nj->n", normal, covariance, normal)
    area = 2 * np.pi * np.sqrt(np.linalg.det(covariance) / sigma2)
    cut = area * np.exp(-0.5 * (length - k) ** 2 / sigma2)

    row_of_hkl = {tuple(hkl): row for row, hkl in enumerate(f.hkl.tolist())}
    rows = [row_of_hkl[tuple(hkl)] for hkl in spots.hkl.tolist()]
    amplitude = f.squared(rows)[:, 0] * 60.0**6
    polarized = 0.5 * (1 + normal[:, 2] ** 2)
    fluence = 1e12 / 9e-12
    truth = R_E_SQUARED * 90.0 * fluence * amplitude * cut / k**2 * polarized
    is_strong = spots.photons > 1e-3 * spots.photons.max()
    is_inside = (np.abs(spots.fast - 2000) < 1900) & (np.abs(spots.slow - 2000) < 1900)
    compared = is_strong & is_inside
    assert compared.sum() > 20
    np.testing.assert_allclose(spots.photons[compared], truth[compared], rtol=0.01)


@pytest.mark.stage
def test_a_panel_cut_in_two_holds_the_same_photons():
    c = crystal(60.0)
    f = factors()
    s = pulse()
    one = Detector(
        origin_mm=np.array([[5.0, 30.0, -60.0]]),
        fast=np.array([[1.0, 0, 0]]),
        slow=np.array([[0, -1.0, 0]]),
        pixel_mm=0.1,
        shape=(200, 200),
        thickness_mm=0.032,
        attenuation_mm=0.017,
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
    slow, fast = (index + 0.5 for index in np.indices(d.shape))
    for panel in range(2):
        on_panel = spots.panel == panel
        photons = spots.photons[on_panel]
        for weight, pixels in (
            (1.0, image[panel]),
            (spots.fast[on_panel], image[panel] * fast),
            (spots.slow[on_panel], image[panel] * slow),
        ):
            assert (photons * weight).sum() == pytest.approx(pixels.sum(), rel=1e-9)

    strong = spots.photons > 0.01 * spots.photons.max()
    q = np.linalg.norm(spots.hkl @ c.A.T, axis=1)[strong]
    along_fast = d.fast[spots.panel] * spots.fast[:, None]
    along_slow = d.slow[spots.panel] * spots.slow[:, None]
    position = d.origin_mm[spots.panel] + d.pixel_mm * (along_fast + along_slow)
    cosine = -position[strong, 2] / np.linalg.norm(position[strong], axis=1)
    theta = 0.5 * np.arccos(cosine)
    by_bragg = 2 * np.sin(theta) * spots.energy_ev[strong] / HC_EV_ANGSTROM
    np.testing.assert_allclose(by_bragg, q, rtol=2e-3)


def test_domains_have_the_mosaicity_asked_for():
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

"""A lattice against its pixels: derivatives beside differences, and what was planted found again on
other crystals.

Tetragonal and triclinic, two tilted panels, 24 eV of narrow channels, shoeboxes that overlap,
masked pixels.
"""

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import convolve

from spreadflow.analysis.orientation_matrix import coordinates, crystal_frame, matrix
from spreadflow.analysis.pixels import (
    held_out,
    lattice_fit,
    point_spread,
    restraints,
    shoeboxes,
    solve,
)
from spreadflow.analysis.still import integration, prediction
from spreadflow.models import Crystal, Detector, Noise, Parameters, Shoeboxes, Spectrum
from spreadflow.physics import (
    forward,
    geometry,
    layout,
    mosaic,
    point_spreads,
    rotation,
    unit_cell,
)
from spreadflow.units import DEG

CELLS = {
    "P 43 21 2": [78.0, 78.0, 38.0, 90.0, 90.0, 90.0],
    "P 1": [48.0, 55.0, 43.0, 80.0, 105.0, 95.0],
}
NOISE = Noise(2.0, 0.01)
FREE = ("scale", "rotation", "cell", "n_cells", "eta")
BY_AXIS = np.array([0.03, 0.05, 0.09]) * DEG
"""η by axis of the crystal, rad"""


def detector() -> Detector:
    """Two tilted panels below the beam, at 2θ of about 20-50°."""
    turn = rotation.from_vector(np.array([[0.02, -0.01, 0.03], [-0.03, 0.02, -0.01]]))
    return Detector(
        origin_mm=np.array([[-62.0, 18.0, -70.0], [2.0, 19.0, -69.0]]),
        fast=turn[:, :, 0],
        slow=-turn[:, :, 1],
        pixel_mm=0.25,
        shape=(240, 240),
        thickness_mm=0.032,
        attenuation_mm=0.017,
    )


def planted(
    group: str, domains: mosaic.Mosaic, n_cells=(36.0, 36.0, 36.0), seed: int = 1
) -> Parameters:
    """A lattice with all nodes that the pulse may light."""
    rng = np.random.default_rng(seed)
    energies = 7108.0 + 1.0 * np.arange(24)
    pulse = Spectrum(energies, 1e10 * rng.exponential(size=24))
    A = rotation.random(rng) @ unit_cell.reciprocal(unit_cell.radians(CELLS[group]))
    crystal = Crystal(A, np.array(n_cells), np.float64(0.06 * DEG))
    hkl = unit_cell.all_indices(A, 2.2)
    mean = 2e4 * rng.exponential(size=(len(hkl), 1))
    f_squared = mean * (1.0 + 0.1 * rng.standard_normal((len(hkl), 24)))
    wide = crystal._replace(eta_rad=np.float64(0.2 * DEG))
    rows = layout.reached(wide, mosaic.continuous(), hkl, pulse)
    return Parameters(
        crystal=crystal,
        mosaic=domains,
        scale=90.0,
        beam_mm=0.003,
        spectrum=pulse,
        polarization=0.8,
        detector=detector(),
        hkl=hkl[rows],
        f_squared=f_squared[rows],
        edge_px=1.0,
    )


def measured(
    true: Parameters, group: str, seed: int = 2, border: int = 2, kernel=None, gains: float = 0.01
) -> Shoeboxes:
    """Pixels of all predicted reflections of 2.4-3.5 Å, with noise; a few of them masked and wrong.

    kernel: of a point spread of what is counted and amplified; gains: relative standard deviation.
    """
    rng = np.random.default_rng(seed)
    domain = float((true.crystal.n_cells * CELLS[group][:3]).mean())
    lattice = prediction.MosaicLattice(true.crystal.A, float(true.crystal.eta_rms_rad), domain)
    found = prediction.predict(lattice, true.spectrum, true.detector, space_group=group, d_min=2.4)
    found = prediction.Predicted(*(column[found.d < 3.5] for column in found))
    bbox = shoeboxes.widened(
        integration.shoeboxes(found, true.detector), border, true.detector.shape
    )
    image = rng.uniform(5.0, 15.0) * np.ones((2, 240, 240)) + 0.02 * np.arange(240)
    rays, pairs = layout.within(true, np.array([0, 1]), np.tile([0, 240, 0, 240], (2, 1)))
    image += forward.sums(true, rays, pairs)[0].reshape(image.shape)
    image = rng.poisson(image) * (1.0 + gains * rng.standard_normal(image.shape))
    if kernel is not None:
        image = np.stack([convolve(panel, kernel, mode="nearest") for panel in image])
    image += 2.0 * rng.standard_normal(image.shape)
    valid = rng.uniform(size=image.shape) > 0.02
    image[~valid] = 1e6
    _, address = shoeboxes.addresses(found.panel, bbox)
    return Shoeboxes(
        hkl=found.hkl.astype(np.int32),
        panel=found.panel.astype(np.int32),
        bbox=bbox,
        photons=image[address],
        valid=valid[address],
    )


def moved(
    p: Parameters, degrees: float, n: float = 1.0, eta: float = 1.0, scale: float = 1.0, seed=3
) -> Parameters:
    axis = np.random.default_rng(seed).standard_normal(3)
    turn = rotation.from_vector(degrees * DEG * axis / np.linalg.norm(axis))
    crystal = p.crystal._replace(
        A=turn @ p.crystal.A,
        n_cells=n * p.crystal.n_cells,
        eta_rad=np.float64(eta * p.crystal.eta_rad),
    )
    return p._replace(crystal=crystal, scale=scale * p.scale)


def fewer(p: Parameters, boxes: Shoeboxes) -> Parameters:
    rows = lattice_fit.reachable(p, boxes)
    return p._replace(hkl=p.hkl[rows], f_squared=p.f_squared[rows])


def away(fitted: lattice_fit.RefinedLattice, true: Parameters, n_axes: int = 1) -> np.ndarray:
    """(unknown,) estimate − truth."""
    crystal = fitted.parameters.crystal
    here, there = (coordinates(fitted.frame, A) for A in (crystal.A, true.crystal.A))
    logs = (
        np.log(fitted.parameters.scale / true.scale),
        np.log(crystal.n_cells / true.crystal.n_cells)[:n_axes],
    )
    eta = np.log(crystal.eta_rad / true.crystal.eta_rad)
    return np.concatenate([np.atleast_1d(x) for x in (logs[0], here - there, logs[1], eta)])[
        : len(fitted.names)
    ]


@pytest.fixture(scope="module")
def tetragonal():
    true = planted("P 43 21 2", mosaic.continuous())
    return true, measured(true, "P 43 21 2")


@pytest.mark.parametrize("group", CELLS)
def test_coordinates_are_what_a_matrix_is_made_of(group):
    at = crystal_frame(planted(group, mosaic.continuous()).crystal.A, group)
    p = 1e-2 * np.random.default_rng(4).standard_normal(3 + len(at.strains))
    np.testing.assert_allclose(
        coordinates(at, np.asarray(matrix(at, p))),
        p,
        atol=1e-12,
    )


@pytest.mark.stage
@pytest.mark.parametrize(
    ("free", "n_axes", "eta_rad", "oversample"),
    [
        ((*FREE, "distance"), 3, BY_AXIS, 1),
        (("rotation", "wavelength", "n_cells", "eta"), 1, np.float64(0.06 * DEG), 2),
    ],
)
def test_columns_are_finite_differences(tetragonal, free, n_axes, eta_rad, oversample):
    """They are for every kind of unknown, away from the start, at points; nearly so for averages,
    whose blur is taken as constant.
    """
    true, boxes = tetragonal
    true = true._replace(crystal=true.crystal._replace(eta_rad=eta_rad))
    averaged = lattice_fit.problem(true, "P 43 21 2", boxes, NOISE, oversample)
    pointwise = averaged._replace(start=averaged.start._replace(edge_px=0.0))
    model = lattice_fit.Model(pointwise, free, n_axes, reach=7.0)
    assert len(model.names()) == len(set(model.names())) == model.n_unknowns
    steps = {"rotation": 1e-7, "cell": 1e-7, "wavelength": 1e-7, "distance": 1e-4}
    step = model.filled(dict.fromkeys(restraints.SIGMAS, 1e-5) | steps)
    u = 20.0 * step
    values, _ = model(u)
    np.testing.assert_allclose(model.photons(u), values, rtol=1e-9, atol=1e-9)
    compare_with_differences(model, u, step, tolerance=3e-5)
    assert model.n_layouts == 1
    blurred = lattice_fit.Model(averaged, free, n_axes, reach=7.0)
    compare_with_differences(blurred, u, step, tolerance=1e-3)


def compare_with_differences(
    model: lattice_fit.Model, u: np.ndarray, step: np.ndarray, tolerance: float
) -> None:
    """Derivatives (pixel, unknown) at u are differences to so much of the largest."""
    _, derivatives = model(u)
    for name, derivative, along in zip(model.names(), derivatives.T, np.diag(step), strict=True):
        up, _ = model(u + along)
        down, _ = model(u - along)
        slope = (up - down) / (2 * along.sum())
        largest = np.abs(slope).max()
        assert largest > 0, name
        np.testing.assert_allclose(derivative, slope, atol=tolerance * largest, err_msg=name)


@pytest.mark.stage
@pytest.mark.parametrize(
    ("name", "off"), [("distance", 0.5), ("distance", -0.5), ("wavelength", 2e-3)]
)
def test_a_wrong_distance_or_wavelength_is_found(tetragonal, name, off):
    """From mm and parts further away than a spot is wide: the energies at a pixel are others
    then.
    """
    true, boxes = tetragonal
    start = true._replace(crystal=true.crystal._replace(A=true.crystal.A * (1.0 + off)))
    if name == "distance":
        start = true._replace(detector=geometry.shifted(true.detector, 0.0, 0.0, off))
    problem = lattice_fit.problem(fewer(start, boxes), "P 43 21 2", boxes, NOISE)
    fitted = lattice_fit.refine(problem, ("scale", name), is_rough=False)
    if name == "distance":
        origin_mm = fitted.parameters.detector.origin_mm
        error = float((origin_mm - true.detector.origin_mm)[0, 2])
        assert abs(error) < abs((origin_mm - start.detector.origin_mm)[0, 2])
    else:
        volumes = [np.linalg.det(p.crystal.A) for p in (fitted.parameters, true)]
        error = float(np.cbrt(volumes[0] / volumes[1]) - 1.0)
    sigma = np.sqrt(fitted.fisher[-1, -1])
    assert fitted.fit.is_converged and abs(error) < 4 * sigma < 0.2 * abs(off), (error, sigma)


@pytest.mark.stage
@pytest.mark.parametrize(
    ("group", "is_continuous", "n_axes"),
    [("P 43 21 2", True, 1), ("P 1", False, 3)],
)
def test_the_truth_is_found_within_its_uncertainty(group, is_continuous, n_axes):
    """From N, η, scale and orientation off: χ² of all unknowns together, and pixels that deviate as
    they should.
    """
    turns = mosaic.domain_rotations(np.random.default_rng(5), 20, 0.06 * DEG)
    turns = turns @ rotation.mean(turns).T
    domains = mosaic.continuous() if is_continuous else mosaic.domains(turns)
    n_cells = (36.0, 36.0, 36.0) if n_axes == 1 else (30.0, 36.0, 42.0)
    true = planted(group, domains, n_cells)
    boxes = measured(true, group)
    assert len(boxes.panel) > 25 and set(boxes.panel) == {0, 1}
    start = fewer(moved(true, 0.01, 1.2, 0.7, 2.0), boxes)
    start = start._replace(crystal=start.crystal._replace(n_cells=np.full(3, 40.0)))
    problem = lattice_fit.problem(start, group, boxes, NOISE)
    fitted = lattice_fit.refine(problem, FREE, n_axes=n_axes)
    strains = {"P 43 21 2": 2, "P 1": 6}[group]
    assert len(fitted.names) == 1 + 3 + strains + n_axes + is_continuous
    assert fitted.fit.is_converged and fitted.fit.point.loss < fitted.loss_before
    error = away(fitted, true, n_axes)
    for covariance in (fitted.fisher, fitted.sandwich):
        assert (np.abs(error) < 5 * np.sqrt(np.diag(covariance))).all()
    assert error @ np.linalg.solve(fitted.fisher, error) < stats.chi2.ppf(0.999, len(error))
    assert np.sqrt(np.diag(fitted.fisher))[1:4].max() < 0.005 * DEG
    assert lattice_fit.sigma_z(fitted.fit.point, problem.data, NOISE) == pytest.approx(
        1.0, abs=0.03
    )
    A = fitted.parameters.crystal.A
    np.testing.assert_allclose(
        A,
        matrix(crystal_frame(A, group), np.zeros(3 + strains)),
        atol=1e-12,
    )


@pytest.mark.stage
def test_a_spread_by_axis_is_found_within_its_uncertainty():
    """In an oblique cell, from one η for all axes. One η explains the pixels far worse, with too
    large domains.
    """
    true = planted("P 1", mosaic.continuous(), (60.0, 60.0, 60.0))
    true = true._replace(crystal=true.crystal._replace(eta_rad=BY_AXIS), scale=900.0)
    boxes = measured(true, "P 1")
    start = fewer(moved(true, 0.01, 1.2, scale=2.0), boxes)
    one_eta = np.float64(0.05 * DEG)
    problems = [
        lattice_fit.problem(
            start._replace(crystal=start.crystal._replace(eta_rad=eta)), "P 1", boxes, NOISE
        )
        for eta in (np.full(3, one_eta), one_eta)
    ]
    fitted, isotropic = (lattice_fit.refine(problem, FREE) for problem in problems)
    assert fitted.names[-4:] == ["n_cells", "eta_1", "eta_2", "eta_3"]
    assert isotropic.names[-2:] == ["n_cells", "eta"]
    assert fitted.fit.is_converged
    error = away(fitted, true)
    for covariance in (fitted.fisher, fitted.sandwich):
        sigma = np.sqrt(np.diag(covariance))
        assert (np.abs(error) < 4 * sigma).all()
        assert sigma[-3:].max() < 0.06, "the axes are told apart"
    assert error @ np.linalg.solve(fitted.fisher, error) < stats.chi2.ppf(0.999, len(error))
    assert isotropic.fit.point.loss > fitted.fit.point.loss + 1000.0
    assert isotropic.parameters.crystal.n_cells[0] > 1.2 * true.crystal.n_cells[0]


@pytest.mark.stage
@pytest.mark.parametrize("make", point_spreads.POINT_SPREADS.values())
def test_the_truth_is_found_through_a_point_spread(make):
    """Within its uncertainty by Fisher; where the point spread is not undone, far beyond."""
    true = planted("P 43 21 2", mosaic.continuous())
    kernel = make(0.2, 0.25, 6)
    blurred = measured(true, "P 43 21 2", kernel=kernel)
    boxes = point_spread.undone(blurred, blurred.valid, kernel)
    noisier = NOISE._replace(readout_photons=NOISE.readout_photons * point_spread.growth(kernel))
    start = fewer(moved(true, 0.01, 1.2, 0.7, 2.0), boxes)
    problem = lattice_fit.problem(start, "P 43 21 2", boxes, noisier)
    fitted = lattice_fit.refine(problem, FREE)
    other = lattice_fit.refine(lattice_fit.problem(start, "P 43 21 2", blurred, NOISE), FREE)
    error = away(fitted, true)
    assert fitted.fit.is_converged
    assert error @ np.linalg.solve(fitted.fisher, error) < stats.chi2.ppf(0.999, len(error))
    assert lattice_fit.sigma_z(fitted.fit.point, problem.data, noisier) == pytest.approx(
        1.0, abs=0.03
    )
    error = away(other, true)
    assert error @ np.linalg.solve(other.fisher, error) > 5 * stats.chi2.ppf(0.999, len(error))


@pytest.mark.stage
@pytest.mark.parametrize("seed", range(2))
def test_starts_a_tenth_of_a_degree_off(tetragonal, seed):
    """With N and η far off too: where the fit that starts at the truth ends; without the broad pass
    not always.
    """
    true, boxes = tetragonal
    near = lattice_fit.refine(
        lattice_fit.problem(fewer(true, boxes), "P 43 21 2", boxes, NOISE), FREE, is_rough=False
    )
    n, eta = (0.7, 1.5) if seed % 2 else (1.3, 0.5)
    start = fewer(moved(true, 0.1, n, eta, 0.5, seed=seed), boxes)
    far = lattice_fit.refine(lattice_fit.problem(start, "P 43 21 2", boxes, NOISE), FREE)
    assert far.fit.point.loss < near.fit.point.loss + 1.0
    assert far.fit.point.loss < far.loss_before


@pytest.mark.stage
def test_the_poisson_target_agrees(tetragonal):
    true, boxes = tetragonal
    start = fewer(moved(true, 0.003, 1.1, 0.9), boxes)
    fits = [
        lattice_fit.refine(
            lattice_fit.problem(start, "P 43 21 2", boxes, NOISE), FREE, target=target
        )
        for target in ("normal", "poisson")
    ]
    errors = [away(found, true) / np.sqrt(np.diag(found.fisher)) for found in fits]
    assert (np.abs(errors) < 5).all()
    np.testing.assert_allclose(*errors, atol=1.5)


@pytest.mark.stage
def test_the_poisson_target_is_the_normal_one_of_bright_spots_and_known_gains():
    """Estimates far nearer to each other than to the truth, of the same σ."""
    noise = Noise(2.0, 0.0)
    true = planted("P 43 21 2", mosaic.continuous())._replace(scale=900.0)
    boxes = measured(true, "P 43 21 2", gains=0.0)
    problem = lattice_fit.problem(
        fewer(moved(true, 0.003, 1.1, 0.9), boxes), "P 43 21 2", boxes, noise
    )
    one, other = (
        lattice_fit.refine(problem, FREE, target=target) for target in ("normal", "poisson")
    )
    sigma = np.sqrt(np.diag(one.fisher))
    assert one.fit.is_converged and other.fit.is_converged
    assert np.linalg.norm(away(other, true) / sigma) > 1.0
    np.testing.assert_allclose(away(one, true) / sigma, away(other, true) / sigma, atol=0.4)
    np.testing.assert_allclose(np.sqrt(np.diag(other.fisher)), sigma, rtol=0.05)


# ---------------------------------------------------------------- restraints


@pytest.fixture(scope="module")
def free(tetragonal):
    """A problem 0.1° off, and its fit without any knowledge."""
    true, boxes = tetragonal
    problem = lattice_fit.problem(
        fewer(moved(true, 0.1, 1.2, 0.7), boxes), "P 43 21 2", boxes, NOISE
    )
    return problem, lattice_fit.refine(problem, FREE)


def counted(problem: lattice_fit.Problem, fitted: lattice_fit.RefinedLattice) -> np.ndarray:
    """(unknown,) of a fit, from where the problem starts."""
    by_kind = restraints.counted(problem.start, problem.frame, fitted.parameters)
    return np.concatenate([by_kind[name][: ROWS[name].stop - ROWS[name].start] for name in FREE])


ROWS = {
    "scale": slice(0, 1),
    "rotation": slice(1, 4),
    "cell": slice(4, 6),
    "n_cells": slice(6, 7),
    "eta": slice(7, 8),
}


@pytest.mark.stage
@pytest.mark.parametrize("kind", FREE)
def test_what_is_known_exactly_is_held(free, kind):
    """Where it is centred, which is not where the fit starts; both σ are then those supplied, and
    no other is larger.
    """
    problem, alone = free
    about = moved(problem.start, 0.01, 0.9, 1.1, 80.0, seed=4)
    about = about._replace(crystal=about.crystal._replace(A=1.001 * about.crystal.A))
    found = lattice_fit.refine(
        problem._replace(restraints=restraints.Restraints(about, {kind: 1e-7})), FREE
    )
    rows = ROWS[kind]
    centre = restraints.counted(problem.start, problem.frame, about)[kind][: rows.stop - rows.start]
    np.testing.assert_allclose(counted(problem, found)[rows], centre, atol=3e-7)
    for covariance in (found.fisher, found.sandwich):
        np.testing.assert_allclose(np.sqrt(np.diag(covariance))[rows], 1e-7, rtol=0.02)
    assert found.fit.point.loss > alone.fit.point.loss


def test_what_is_hardly_known_changes_nothing(free):
    problem, alone = free
    about = moved(problem.start, 0.05, 0.8, 1.3, seed=4)
    found = lattice_fit.refine(
        problem._replace(restraints=restraints.Restraints(about, dict.fromkeys(FREE, 1e3))), FREE
    )
    sigma = np.sqrt(np.diag(alone.fisher))
    np.testing.assert_allclose(
        counted(problem, found) / sigma, counted(problem, alone) / sigma, atol=0.1
    )
    for name in ("fisher", "sandwich"):
        np.testing.assert_allclose(
            np.sqrt(np.diag(getattr(found, name))),
            np.sqrt(np.diag(getattr(alone, name))),
            rtol=0.01,
        )


@pytest.mark.parametrize("kinds", [("rotation",), ("n_cells",), ("n_cells", "eta", "cell")])
def test_pixels_and_knowledge_are_a_product_of_two_gaussians(free, kinds):
    """Information adds up, and the estimate is the mean weighted with it: also of what is not
    restrained itself.

    The orientation is known about where the fit starts, 0.1° off, though the fit itself goes on
    from the broad pass.
    """
    problem, alone = free
    n = len(alone.names)
    sigma = np.sqrt(np.diag(alone.fisher))
    weak = 1.0 / lattice_fit.Model(problem, FREE).filled(restraints.SIGMAS) ** 2
    before = counted(problem, alone)
    centre = np.zeros(n)
    sigmas = {}
    precision = weak.copy()
    for kind in kinds:
        rows = ROWS[kind]
        if kind == "rotation":
            centre[rows] = 0.0
            square = 0.5 * sigma[rows].max() * np.abs(before[rows]).max()
            sigmas[kind] = float(np.sqrt(square))
        else:
            signs = np.array([1.0, -1.0, 1.0])[: rows.stop - rows.start]
            centre[rows] = before[rows] + 2.0 * sigma[rows] * signs
            sigmas[kind] = float(sigma[rows].min())
        precision[rows] = sigmas[kind] ** -2
    about = lattice_fit.Model(problem, FREE).parameters(centre)
    found = lattice_fit.refine(
        problem._replace(restraints=restraints.Restraints(about, sigmas)), FREE
    )
    covariance = np.linalg.inv(np.linalg.inv(alone.fisher) + np.diag(precision - weak))
    expected = before + covariance @ ((precision - weak) * (centre - before))
    assert np.abs((expected - before) / sigma).max() > 0.9
    np.testing.assert_allclose(counted(problem, found) / sigma, expected / sigma, atol=0.2)
    np.testing.assert_allclose(
        np.sqrt(np.diag(found.fisher)), np.sqrt(np.diag(covariance)), rtol=0.12
    )  # not linear


# ---------------------------------------------------------------- minimizers


@pytest.mark.stage
@pytest.mark.parametrize(
    ("seed", "target", "n_axes"), [(0, "normal", 1), (1, "normal", 3), (2, "poisson", 1)]
)
def test_lbfgs_ends_where_levenberg_does_and_takes_longer(tetragonal, seed, target, n_axes):
    true, boxes = tetragonal
    rng = np.random.default_rng(seed)
    start = fewer(
        moved(true, 0.02, rng.uniform(0.8, 1.2), rng.uniform(0.7, 1.3), 1.5, seed=seed), boxes
    )
    problem = lattice_fit.problem(start, "P 43 21 2", boxes, NOISE)
    settings = {"n_axes": n_axes, "target": target}
    levenberg = lattice_fit.refine(problem, FREE, **settings)
    lbfgs = lattice_fit.refine(problem, FREE, minimizer="lbfgs", n_iterations=300, **settings)
    assert levenberg.fit.is_converged and lbfgs.fit.is_converged
    least = levenberg.fit.point.loss
    assert lbfgs.fit.point.loss == pytest.approx(least, abs=0.05)
    assert 2 * levenberg.fit.n_evaluations < lbfgs.fit.n_evaluations < 100
    sigma = np.sqrt(np.diag(levenberg.fisher))
    errors = [away(fit, true, n_axes) / sigma for fit in (lbfgs, levenberg)]
    np.testing.assert_allclose(*errors, atol=0.3)
    variances = [np.diag(fit.sandwich) for fit in (lbfgs, levenberg)]
    np.testing.assert_allclose(*np.sqrt(variances), rtol=0.05)
    short = lattice_fit.refine(problem, FREE, minimizer="lbfgs", n_iterations=6, **settings)
    assert short.fit.n_evaluations == 6 and not short.fit.is_converged
    assert least + 0.2 < short.fit.point.loss <= short.loss_before


@pytest.mark.stage
@pytest.mark.parametrize(("degrees", "is_likelier"), [(0.0, False), (0.01, True)])
def test_pixels_replace_spots_where_left_out_shoeboxes_are_likelier(
    tetragonal, degrees, is_likelier
):
    """A lattice that starts at its true orientation and cell, where pixels can only add noise, and
    one that starts off.
    """
    true, boxes = tetragonal
    start = moved(true, degrees, n=0.9)
    problem = lattice_fit.problem(fewer(start, boxes), "P 43 21 2", boxes, NOISE)
    free = ("scale", "rotation", "cell", "n_cells", "eta")
    of_pixels = lattice_fit.refine(problem, free)
    of_spots = held_out.with_spots(problem, of_pixels, free)
    A = of_spots.parameters.crystal.A
    np.testing.assert_allclose(A, start.crystal.A, rtol=0, atol=1e-9)
    assert of_spots.names == ["scale", "n_cells", "eta"]
    assert of_spots.fit.point.loss > of_pixels.fit.point.loss
    assert (held_out.gain(of_pixels, of_spots) > 0) == is_likelier


@pytest.mark.parametrize("degrees", [0.0, 0.1])
def test_nodes_that_cannot_reach_the_shoeboxes_are_left_out(tetragonal, degrees):
    """Fewer than half are kept, and these hold all photons, also of the lattice turned."""
    true, boxes = tetragonal
    in_reach = fewer(true, boxes)
    assert len(in_reach.hkl) < 0.5 * len(true.hkl)

    def photons(p: Parameters) -> np.ndarray:
        problem = lattice_fit.problem(moved(p, degrees), "P 43 21 2", boxes, NOISE)
        return lattice_fit.Model(problem, ()).photons(np.zeros(0))

    of_all = photons(true)
    np.testing.assert_allclose(photons(in_reach), of_all, atol=1e-5 * of_all.max())


def test_pairs_are_laid_out_anew_when_the_lattice_has_moved(tetragonal):
    true, boxes = tetragonal
    problem = lattice_fit.problem(fewer(true, boxes), "P 43 21 2", boxes, NOISE)
    model = lattice_fit.Model(problem, FREE)
    u = np.zeros(8)
    model(u)
    model(u + 1e-6)
    assert model.n_layouts == 1
    u[1] = 0.05 * DEG
    photons, _ = model(u)
    fresh, _ = lattice_fit.Model(problem, FREE)(u)
    assert model.n_layouts == 2
    np.testing.assert_array_equal(photons, fresh)


def test_scale_and_planes_of_least_squares():
    """Exact where the data are a multiple of the Bragg photons on planes."""
    rng = np.random.default_rng(6)
    start = np.array([0, 40, 90])
    plane = np.column_stack([np.ones(90), rng.uniform(-1, 1, (90, 2))])
    bragg = 100 * rng.exponential(size=90)
    planes = np.array([[50.0, 3.0, -2.0], [20.0, 1.0, 4.0]])
    data = solve.Data(np.zeros(90), plane, start)
    data = data._replace(photons=2.5 * bragg + solve.backgrounds(planes, data))
    factor, found = lattice_fit.planes_and_scale(bragg, data, NOISE)
    assert factor == pytest.approx(2.5, rel=1e-4)
    np.testing.assert_allclose(found, planes, rtol=1e-2, atol=0.05)

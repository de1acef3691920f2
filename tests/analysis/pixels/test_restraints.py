"""Restraints of a lattice stay where they are centred, from wherever its unknowns are counted."""

import numpy as np
import pytest

from spreadflow.analysis.orientation_matrix import crystal_frame, matrix
from spreadflow.analysis.pixels import lattice_fit, restraints
from spreadflow.models import Crystal, Detector, Parameters, Shoeboxes, Spectrum
from spreadflow.physics import geometry, mosaic, rotation, unit_cell

GROUPS = {
    "P 43 21 2": [78.0, 78.0, 38.0, 90.0, 90.0, 90.0],
    "P 1": [48.0, 55.0, 43.0, 80.0, 105.0, 95.0],
}
NO_BOXES = Shoeboxes(
    hkl=np.empty((0, 3), int),
    panel=np.empty(0, int),
    bbox=np.empty((0, 4), int),
    photons=np.empty(0),
    valid=np.empty(0, bool),
)
FREE = ("scale", "rotation", "n_cells", "eta")


ETA_RAD = np.float64(1e-3)
BY_AXIS = np.array([1e-3, 2e-3, 5e-4])
"""η by axis of the crystal, rad"""


def start(group: str, eta_rad=ETA_RAD) -> Parameters:
    rng = np.random.default_rng(1)
    A = rotation.random(rng) @ unit_cell.reciprocal(unit_cell.radians(GROUPS[group]))
    turn = rotation.from_vector(np.array([0.02, -0.01, 0.03]))
    detector = Detector(
        origin_mm=np.array([[-62.0, 18.0, -70.0]]),
        fast=turn[None, :, 0],
        slow=-turn[None, :, 1],
        pixel_mm=0.25,
        shape=(240, 240),
    )
    return Parameters(
        crystal=Crystal(A, np.array([30.0, 36.0, 42.0]), eta_rad),
        mosaic=mosaic.continuous(),
        scale=np.float64(90.0),
        beam_mm=0.003,
        spectrum=Spectrum(np.ones(1), np.ones(1)),
        polarization=0.8,
        detector=detector,
        hkl=np.ones((1, 3)),
        f_squared=None,
    )


def model(
    group: str, free: tuple[str, ...], turned=(0.0, 0.0, 0.0), eta_rad=ETA_RAD, **supplied
) -> lattice_fit.Model:
    """A model without pixels; its orientation is counted from another."""
    parameters = start(group, eta_rad)
    of_start = crystal_frame(parameters.crystal.A, group)
    turned_frame = of_start._replace(U=rotation.from_vector(np.array(turned)) @ of_start.U)
    problem = lattice_fit.Problem(parameters, turned_frame, NO_BOXES, None, None, **supplied)
    return lattice_fit.Model(problem, free, n_axes=3)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(
    ("length", "eta_rad"),
    [("cell", ETA_RAD), ("distance", BY_AXIS), ("wavelength", ETA_RAD)],
)
def test_unknowns_of_parameters_are_those_that_lead_to_them(group, length, eta_rad):
    turned = model(group, (*FREE, length), (3e-3, 1e-3, -2e-3), eta_rad)
    draws = np.random.default_rng(2).uniform(-0.5, 0.5, turned.n_unknowns)
    u = turned.filled(restraints.SIGMAS) * draws
    problem = turned.problem
    by_kind = restraints.counted(problem.start, problem.frame, turned.parameters(u))
    counted = np.concatenate([by_kind[name] for name in turned.slices])
    np.testing.assert_allclose(counted, u, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("eta_rad", [ETA_RAD, BY_AXIS])
@pytest.mark.parametrize("turned", [(0.0, 0.0, 0.0), (3e-3, 1e-3, -2e-3)])
def test_what_is_known_stays_where_it_is_when_the_start_is_turned(turned, eta_rad):
    """Unknowns at the centre lead to the parameters that it is; nothing changes of kinds that are
    not restrained, nor of a scale that is not known. One η is known of all axes.
    """
    free = (*FREE, "distance")
    original = start("P 1")
    about = original._replace(
        crystal=original.crystal._replace(eta_rad=np.float64(2e-3)),
        detector=geometry.shifted(original.detector, 0.0, 0.0, 0.3),
        scale=np.nan,
    )
    sigmas = {"rotation": 1e-4, "eta": 0.1, "distance": 0.05, "scale": 0.2, "wavelength": 1e-3}
    supplied = restraints.Restraints(about, sigmas)
    restrained = model("P 1", free, turned, eta_rad, restraints=supplied)
    restraint = restrained.restraint()
    centre = restrained.parameters(restraint.centre)
    np.testing.assert_allclose(centre.crystal.A, about.crystal.A, atol=1e-12)
    origin_mm = about.detector.origin_mm
    np.testing.assert_allclose(centre.detector.origin_mm, origin_mm, atol=1e-12)
    np.testing.assert_allclose(centre.crystal.eta_rad, np.full(np.shape(eta_rad), 2e-3))
    assert centre.scale == 90.0
    expected = restrained.filled(restraints.SIGMAS | sigmas) ** -2
    np.testing.assert_allclose(restraint.precision, expected)
    assert restraint.loss(restraint.centre) == 0.0
    weak = model("P 1", free, turned, eta_rad).restraint()
    np.testing.assert_array_equal(weak.centre, 0.0)
    np.testing.assert_allclose(weak.precision, restrained.filled(restraints.SIGMAS) ** -2)


@pytest.mark.parametrize("group", GROUPS)
def test_sigma_of_the_cell_is_that_of_any_length(group):
    """Relative; exactly so without symmetry, and of a = b in a tetragonal crystal 1/√2 of it."""
    of_start = crystal_frame(start(group).crystal.A, group)
    uvw = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, -2, 3]])
    step = 1e-6

    def log_lengths(strains):
        A = np.asarray(matrix(of_start, np.concatenate([np.zeros(3), strains])))
        return np.log(np.linalg.norm(uvw @ np.linalg.inv(A), axis=1))

    each = step * np.eye(len(of_start.strains))
    differences = [log_lengths(strains) - log_lengths(-strains) for strains in each]
    slopes = np.stack(differences, axis=1) / (2 * step)
    expected = np.array([0.5**0.5, 0.5**0.5, 1.0]) if group == "P 43 21 2" else np.ones(4)
    sigma = np.linalg.norm(slopes, axis=1)[: len(expected)]
    np.testing.assert_allclose(sigma, expected, rtol=1e-6)

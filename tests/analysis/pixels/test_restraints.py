"""Restraints of a lattice: centred where they are told, from wherever its unknowns are counted."""

import numpy as np
import pytest

from spreadflow.analysis.orientation_matrix import crystal_frame, matrix
from spreadflow.analysis.pixels import lattice_fit, restraints
from spreadflow.models import Crystal, Detector, Parameters, Spectrum
from spreadflow.physics import geometry, mosaic, rotation, unit_cell

GROUPS = {
    "P 43 21 2": [78.0, 78.0, 38.0, 90.0, 90.0, 90.0],
    "P 1": [48.0, 55.0, 43.0, 80.0, 105.0, 95.0],
}
FREE = ("scale", "rotation", "n_cells", "eta")


def start(group: str) -> Parameters:
    rng = np.random.default_rng(1)
    A = rotation.random(rng) @ unit_cell.reciprocal(unit_cell.radians(GROUPS[group]))
    turn = rotation.from_vector(np.array([0.02, -0.01, 0.03]))
    at = Detector(
        np.array([[-62.0, 18.0, -70.0]]), turn[None, :, 0], -turn[None, :, 1], 0.25, (240, 240)
    )
    crystal = Crystal(A, np.array([30.0, 36.0, 42.0]), np.float64(1e-3))
    pulse = Spectrum(np.ones(1), np.ones(1))
    return Parameters(
        crystal, mosaic.continuous(), np.float64(90.0), 0.003, pulse, 0.8, at, np.ones((1, 3)), None
    )


def model(
    group: str, free: tuple[str, ...], turned=(0.0, 0.0, 0.0), **supplied
) -> lattice_fit.Model:
    """Without pixels; its orientation counted from another."""
    begun = start(group)
    at = crystal_frame(begun.crystal.A, group)
    at = at._replace(U=rotation.from_vector(np.array(turned)) @ at.U)
    return lattice_fit.Model(
        lattice_fit.Problem(begun, at, None, None, None, **supplied), free, n_axes=3
    )


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("length", ["cell", "distance", "wavelength"])
def test_parameters_are_counted_as_they_are_made(group, length):
    one = model(group, (*FREE, length), (3e-3, 1e-3, -2e-3))
    u = one.filled(restraints.SIGMAS) * np.random.default_rng(2).uniform(-0.5, 0.5, one.n_unknowns)
    found = restraints.counted(one.problem.start, one.problem.frame, one.parameters(u))
    np.testing.assert_allclose(
        np.concatenate([found[name] for name in one.slices]), u, rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("turned", [(0.0, 0.0, 0.0), (3e-3, 1e-3, -2e-3)])
def test_what_is_known_stays_where_it_is_when_the_start_is_turned(turned):
    """Unknowns at the centre make the parameters it was told as; of others and an unknown scale
    nothing changes.
    """
    about = start("P 1")
    shifted = geometry.shifted(about.detector, 0.0, 0.0, 0.3)
    free = (*FREE, "distance")
    about = about._replace(
        crystal=about.crystal._replace(eta_rad=np.float64(2e-3)), detector=shifted, scale=np.nan
    )
    sigmas = {"rotation": 1e-4, "eta": 0.1, "distance": 0.05, "scale": 0.2, "wavelength": 1e-3}
    one = model("P 1", free, turned, restraints=restraints.Restraints(about, sigmas))
    found = one.restraint()
    made = one.parameters(found.centre)
    np.testing.assert_allclose(made.crystal.A, about.crystal.A, atol=1e-12)
    np.testing.assert_allclose(made.detector.origin_mm, shifted.origin_mm, atol=1e-12)
    assert made.crystal.eta_rad == pytest.approx(2e-3) and made.scale == 90.0
    np.testing.assert_allclose(found.precision, one.filled(restraints.SIGMAS | sigmas) ** -2)
    assert found.loss(found.centre) == 0.0
    weak = model("P 1", free, turned).restraint()
    np.testing.assert_array_equal(weak.centre, 0.0)
    np.testing.assert_allclose(weak.precision, one.filled(restraints.SIGMAS) ** -2)


@pytest.mark.parametrize("group", GROUPS)
def test_sigma_of_the_cell_is_that_of_any_length(group):
    """Relative; exactly so without symmetry, and of a = b in a tetragonal crystal 1/√2 of it."""
    at = crystal_frame(start(group).crystal.A, group)
    uvw = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, -2, 3]])
    n = len(at.strains)
    step = 1e-6

    def lengths(p):
        return np.log(
            np.linalg.norm(
                uvw @ np.linalg.inv(np.asarray(matrix(at, np.concatenate([np.zeros(3), p])))),
                axis=1,
            )
        )

    slope = np.stack([lengths(step * e) - lengths(-step * e) for e in np.eye(n)], axis=1) / (
        2 * step
    )
    expected = np.array([0.5**0.5, 0.5**0.5, 1.0]) if group == "P 43 21 2" else np.ones(4)
    np.testing.assert_allclose(np.linalg.norm(slope, axis=1)[: len(expected)], expected, rtol=1e-6)

"""A lattice before its fit: which η it starts with."""

import numpy as np
import pytest

from spreadflow.config import Stage1Section
from spreadflow.models import Crystal, Mosaic, Parameters, Spectrum
from spreadflow.physics import mosaic
from spreadflow.recipes import lattice

ETA_RAD = np.float64(8e-4)
BY_AXIS = np.array([5e-4, 8e-4, 1e-3])
"""η by axis of the crystal, rad"""
DOMAINS = mosaic.domains(np.eye(3)[None])
LEARNED = mosaic.continuous()._replace(eta_rad=ETA_RAD)


def parameters(eta_rad, mosaicity: Mosaic) -> Parameters:
    return Parameters(
        crystal=Crystal(np.eye(3), np.full(3, 30.0), eta_rad),
        mosaic=mosaicity,
        scale=1.0,
        beam_mm=0.003,
        spectrum=Spectrum(np.ones(1), np.ones(1)),
        polarization=1.0,
        detector=None,
        hkl=np.ones((1, 3)),
        f_squared=np.ones((1, 1)),
    )


@pytest.mark.parametrize(
    ("eta_axes", "eta_rad", "mosaicity", "expected"),
    [
        (1, ETA_RAD, mosaic.continuous(), ETA_RAD),
        (1, np.full(3, ETA_RAD), mosaic.continuous(), ETA_RAD),
        (3, ETA_RAD, mosaic.continuous(), np.full(3, ETA_RAD)),
        (3, BY_AXIS, mosaic.continuous(), BY_AXIS),
        (3, np.full(3, ETA_RAD), LEARNED, ETA_RAD),
        (3, ETA_RAD, DOMAINS, ETA_RAD),
    ],
)
def test_a_lattice_has_an_eta_by_axis_where_it_is_refined_so(
    eta_axes, eta_rad, mosaicity, expected
):
    section = Stage1Section(eta_axes=eta_axes)
    found = lattice.with_eta_axes(parameters(eta_rad, mosaicity), section).crystal.eta_rad
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_array_equal(found, expected)

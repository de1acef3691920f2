"""A lattice and its fit: which η it starts with, and which end it has where nothing solves it."""

import logging

import numpy as np
import pytest

from spreadflow.config import Stage1Section, for_stage, parse, section
from spreadflow.errors import RefinedOutcome
from spreadflow.io import store
from spreadflow.models import Crystal, Mosaic, Parameters, Spectrum
from spreadflow.physics import mosaic
from spreadflow.products import Annulus
from spreadflow.recipes import lattice
from spreadflow.recipes.lattice import PackedLattice, RunModel
from spreadflow.stages.pixel_models import read_models

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


@pytest.fixture(scope="module")
def packed(packed_run) -> tuple[PackedLattice, RunModel, Stage1Section]:
    """The first lattice of the packed run, the model of the run, and how it is refined."""
    tree = packed_run.tree | {"stage1": {"oversample": 1}}
    config = for_stage(section(parse(tree), "stage1"), "stage1")
    annulus = store.parts_of(packed_run.annulus, Annulus)[0].read()
    log = logging.getLogger("test")
    models = read_models(config, packed_run.annulus, "annulus", "stage1", log)
    return lattice.unpack(annulus, 0), models[0], config.stage1


def test_a_lattice_whose_equations_are_not_finite_is_lost(packed):
    one, model, how = packed
    photons = one.boxes.photons.copy()
    photons[np.flatnonzero(one.boxes.valid)[7]] = np.nan
    spoiled = one._replace(boxes=one.boxes._replace(photons=photons))
    fit = lattice.refine_lattice(spoiled, mosaic.continuous(), model, how)
    assert fit.outcome == RefinedOutcome.LOST
    assert fit.why == "the normal equations are not finite"


def test_an_error_of_the_program_is_no_lost_lattice(packed, monkeypatch):
    """One pixel less than the model has: NumPy calls it a ValueError."""
    one, model, how = packed
    problem_of = lattice.problem_of

    def with_a_pixel_less(*arguments):
        problem = problem_of(*arguments)
        return problem._replace(data=problem.data._replace(photons=problem.data.photons[1:]))

    monkeypatch.setattr(lattice, "problem_of", with_a_pixel_less)
    with pytest.raises(ValueError, match="same shape"):
        lattice.refine_lattice(one, mosaic.continuous(), model, how)


@pytest.mark.parametrize("minimizer", ["levenberg", "lbfgs"])
@pytest.mark.parametrize("free", [[], ["rotation"]])
def test_pixels_are_compared_with_spots_where_nothing_else_is_refined(packed, free, minimizer):
    """The fit that leaves orientation and cell to the spots has no unknowns at all."""
    one, model, how = packed
    how = how.model_copy(update={"refine": free, "minimizer": minimizer})
    fit = lattice.refine_lattice(one, mosaic.continuous(), model, how)
    assert fit.outcome in lattice.FITTED
    assert np.isfinite(lattice.likelier(fit, how).held_out_gain) == bool(free)

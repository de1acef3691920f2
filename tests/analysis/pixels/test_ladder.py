"""The rungs with a model on a lattice whose truth is known, in a triclinic cell on two panels."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from lab import cached
from spreadflow.analysis.pixels import ladder, lattice_fit, shoeboxes
from spreadflow.analysis.pixels.rungs import RUNGS, Figures
from spreadflow.config import for_stage, parse, section
from spreadflow.models import Detector, Noise, ReflectionFlag
from spreadflow.physics import rotation
from spreadflow.recipes import patch as patches
from spreadflow.recipes import still
from spreadflow.units import DEG

NOISE = Noise(1.0, 0.0)
TURN = rotation.from_vector(0.1 * DEG * np.array([0.6, 0.64, -0.48]))


def start_of(patch: patches.Patch, turn: np.ndarray):
    """The truth with another scale, turned, and only the nodes in reach."""
    p = patch.parameters
    p = p._replace(scale=0.3 * p.scale, crystal=p.crystal._replace(A=turn @ p.crystal.A))
    rows = lattice_fit.reachable(p, patch.shoeboxes)
    return p._replace(hkl=p.hkl[rows], f_squared=p.f_squared[rows])


@pytest.fixture(scope="module")
def patch(packed_run) -> patches.Patch:
    def make() -> patches.Patch:
        config = for_stage(section(parse(packed_run.tree), "simulate", "r"), "simulate")
        return patches.patch(still.Simulator(config), 3, d_min=2.3, d_max=4.0)

    return cached("patch_3", make, "spreadflow.recipes.patch", also=repr(packed_run.tree))


@pytest.fixture(scope="module")
def rungs(patch):
    """Data and steps of the lattice turned by 0.1°."""

    def make():
        return ladder.run_rungs(start_of(patch, TURN), "P 1", patch.shoeboxes, NOISE)

    modules = ("spreadflow.recipes.patch", "spreadflow.analysis.pixels.ladder")
    return cached("rungs_of_a_lattice", make, *modules, also=Path(__file__).read_text())


def test_rung_4_finds_orientation_and_scale_where_3b_does_not(patch, rungs):
    data, steps = rungs
    valid = patch.shoeboxes.valid
    truth = steps["4"]._replace(shape=patch.bragg[valid])
    true_centroids = ladder.centroids(truth, data, patch.shoeboxes)
    first_pixel = np.cumsum([0, *patch.shoeboxes.n_pixels[:-1]])
    is_bright = np.add.reduceat(patch.bragg, first_pixel) > 1000
    assert is_bright.sum() > 8
    off = {}
    for name, step in steps.items():
        away = np.abs(ladder.centroids(step, data, patch.shoeboxes) - true_centroids)
        off[name] = away[is_bright].max()
    assert off["4"] < 0.02 < 0.1 < min(off["3B"], off["2"])
    assert steps["4"].bragg.sum() == pytest.approx(patch.bragg[valid].sum(), rel=0.01)
    z = {name: ladder.deviations(step, data, NOISE)[0].std() for name, step in steps.items()}
    assert z["4"] == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(data.photons)))
    assert z["4"] < min(z["3B"], z["2"]) and max(z["3B"], z["2"]) < z["1"]


def test_two_engines_and_two_ways_to_solve_agree(rungs):
    _, steps = rungs
    assert ladder.pixels_apart(steps["3B"].bragg, steps["3A"].bragg) < 1e-4
    assert ladder.planes_apart(steps["3"].planes, steps["2"].planes) < 1e-6
    apart = ladder.pixels_apart(1.01 * steps["3B"].bragg, steps["3A"].bragg)
    assert apart == pytest.approx(0.01, rel=0.05)
    assert ladder.planes_apart(steps["3"].planes + 1e-3, steps["2"].planes) > 1e-6


def test_rung_2_is_the_likeliest_plane_and_scale_of_a_spot(patch, rungs):
    """−ln L of Poisson, data and model shifted by the readout's variance, handed to a general
    minimiser.
    """
    data, steps = rungs
    step = steps["2"]
    brightness = [step.shape[a:b].sum() for a, b in pairwise(data.start)]
    box = int(np.argmax(brightness))
    pixels = slice(data.start[box], data.start[box + 1])
    photons = data.photons[pixels]
    shape = step.shape[pixels] / step.shape[pixels].max()
    columns = np.column_stack([shape, data.plane[pixels]])

    def loss(x):
        shifted = columns @ x + 1.0
        return np.sum(shifted - (photons + 1.0) * np.log(shifted))

    begin = np.array([1.0, np.median(photons), 0.0, 0.0])
    options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 20000}
    scale, *plane = minimize(loss, begin, method="Nelder-Mead", options=options).x
    np.testing.assert_allclose(step.planes[box], plane, atol=1e-4)
    assert step.bragg[pixels].max() == pytest.approx(scale, rel=1e-5)


def test_z_falls_where_the_model_has_the_spot(patch):
    """It does for all bright spots with the right light and orientation."""
    data, steps = ladder.run_rungs(start_of(patch, np.eye(3)), "P 1", patch.shoeboxes, NOISE)
    bragg = steps["4"].bragg
    is_bright = np.array([bragg[a:b].sum() > 300 for a, b in pairwise(data.start)])
    assert is_bright.sum() > 8
    assert ladder.falls(steps["1"], steps["4"], data, NOISE)[is_bright].all()
    assert not ladder.falls(steps["4"], steps["1"], data, NOISE)[is_bright].any()


def test_light_of_the_mean_energy(patch):
    p = patch.parameters
    mono = ladder.monochromatic(p)
    assert mono.spectrum.photons.sum() == pytest.approx(p.spectrum.photons.sum())
    mean = np.average(p.spectrum.energies_ev, weights=p.spectrum.photons)
    assert mono.spectrum.energies_ev[0] == pytest.approx(mean)
    assert (mono.f_squared[:, 0] == p.f_squared[:, round((mean - 7100.5) / 2.0)]).all()


def test_radial_and_transverse_distances():
    """A beam centre at (50, 40) px: a spot right of it has its radius along fast, one below it
    along slow.
    """
    axes = {"fast": np.array([[1.0, 0, 0]]), "slow": np.array([[0, -1.0, 0]])}
    detector = Detector(np.array([[-10.0, 8.0, -100.0]]), **axes, pixel_mm=0.2, shape=(100, 100))
    spots = np.array([[80.0, 40.0], [50.0, 90.0]])
    moved = ladder.away_mm(spots, spots + np.array([0.5, -2.0]), np.zeros(2, int), detector)
    np.testing.assert_allclose(np.abs(moved), [[0.1, 0.4], [0.4, 0.1]], atol=1e-12)
    assert moved[0, 0] > 0 > moved[1, 0]


def test_a_plain_count_is_that_of_chosen():
    rng = np.random.default_rng(2)
    d = rng.uniform(1.5, 5.0, 4000)
    strength = rng.normal(2.0, 2.0, 4000)
    flags = rng.integers(0, 32, 4000)
    limits = {"d_min": 2.0, "d_max": 3.0}
    is_chosen = shoeboxes.chosen(d, strength, flags, **limits, min_i_over_sigma=ladder.STRONG)
    assert ladder.plain_count(d, strength, flags, **limits) == is_chosen.sum() > 20
    assert ladder.plain_count(d, strength, np.full(4000, ReflectionFlag.MASKED), 2.0, 3.0) == 0


def figures(**changes) -> Figures:
    """Figures of a ladder that passes, with changes by rung."""
    radial = (None, 0.04, 0.3, 0.3, 0.1, 0.1, 0.06)
    good = {name: {"radial_rmsd_mm": mm} for name, mm in zip(RUNGS, radial, strict=True)}
    good["00"] |= {"n_read": 9, "n_accepted": 9, "n_others": 0, "growth_percent": 4.9}
    good["1"] |= {"n_flagged": 80, "n_counted": 80}
    good["2"] |= {"share_fell": 0.9}
    good["3"] |= {"planes_apart": 9e-7}
    good["3B"] |= {"pixels_apart": 9e-4}
    return {name: rung | changes.get(name, {}) for name, rung in good.items()}


def test_a_good_ladder_passes():
    assert all(rung.test(figures()) for rung in RUNGS.values())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("00", {"n_read": 8}),
        ("00", {"n_others": 1}),
        ("00", {"growth_percent": 5.1}),
        ("1", {"n_counted": 81}),
        ("2", {"share_fell": 0.89}),
        ("2", {"share_fell": None}),
        ("3", {"planes_apart": 2e-6}),
        ("3A", {"radial_rmsd_mm": 0.31}),
        ("3B", {"pixels_apart": 2e-3}),
        ("4", {"radial_rmsd_mm": 0.1}),
        ("4", {"radial_rmsd_mm": None}),
    ],
)
def test_a_rung_fails_by_itself(name, change):
    changed = figures(**{name: change})
    failed = [other for other, rung in RUNGS.items() if not rung.test(changed)]
    assert failed == [name]

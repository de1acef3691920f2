"""The detector from many lattices: the elimination against one dense solve, and planted moves found
again.
"""

import numpy as np
import pytest

from spreadflow.analysis import geometry_fit
from spreadflow.analysis.geometry_fit import GROUPS, IndexedLattice, Joint
from spreadflow.analysis.still import prediction, refinement
from spreadflow.models import Detector, Spectrum, Spots
from spreadflow.physics import geometry, rotation, unit_cell

GROUP = "P 41 21 2"
CELL = [70.0, 70.0, 110.0, 90.0, 90.0, 90.0]
ETA = 8e-4
DOMAIN = 2500.0
NOISE_PX = 0.1


def tilted(turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Fast and slow axis of a panel turned about two axes by `turn` rad."""
    R = rotation.from_vector(np.array([turn, -turn / 2, turn / 3]))
    return R @ [1.0, 0, 0], R @ [0, -1.0, 0]


def detector() -> Detector:
    """Four tilted panels with gaps."""
    corners = [(-81.0, 81.0), (1.0, 80.5), (-80.5, -1.0), (1.5, -1.5)]
    axes = [tilted(turn) for turn in (0.0, 0.004, -0.003, 0.002)]
    origin = np.array([[x, y, -110.0 - 0.3 * i] for i, (x, y) in enumerate(corners)])
    fast, slow = (np.array([a[k] for a in axes]) for k in (0, 1))
    return Detector(origin, fast, slow, np.array(0.1), (800, 800))


def pulse(rng) -> Spectrum:
    energies = np.arange(7080.0, 7160.0, 2.0)
    envelope = np.exp(-0.5 * ((energies - 7120 - 5 * rng.normal()) / 10) ** 2)
    return Spectrum(energies, envelope * rng.gamma(3.0, size=len(energies)))


def lattices(n: int, true: Detector) -> list[IndexedLattice]:
    """Lattices whose spots lie on the true detector, with orientations and cells a little wrong."""
    out = []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        A = rotation.random(rng) @ unit_cell.reciprocal(unit_cell.radians(CELL))
        spectrum = pulse(rng)
        how = {
            "spectrum": spectrum,
            "detector": true,
            "space_group": GROUP,
            "d_min": 2.2,
            "partiality_min": 0.03,
        }
        p = prediction.predict(A, ETA, DOMAIN, **how)
        keep = rng.choice(len(p.hkl), min(60, len(p.hkl)), replace=False)
        fast, slow = (x[keep] + NOISE_PX * rng.normal(size=len(keep)) for x in (p.fast, p.slow))
        fast[:3] += rng.uniform(1, 2.5, size=3)  # outliers
        variance = np.full(len(keep), NOISE_PX**2)
        ones = np.ones(len(keep))
        spots = Spots(p.panel[keep], fast, slow, variance, variance, 100 * ones, ones, 9 * ones)
        live = prediction.compress(spectrum)
        start = rotation.from_vector(rng.normal(size=3) * 2e-4) @ A * (1 + 3e-4 * rng.normal())
        out.append(
            IndexedLattice(
                start,
                ETA,
                p.hkl[keep],
                spots,
                refinement.Pulse(live.energies_ev, live.photons, DOMAIN),
            )
        )
    return out


def add(partials):
    return sum(partials[b] for b in sorted(partials))


def pool(parts):
    return [parts[b] for b in sorted(parts)]


def solved(found, start, groups, passes=2) -> Joint:
    """The joint refinement in blocks of ten."""
    blocks = {b: found[10 * b : 10 * b + 10] for b in range(-(-len(found) // 10))}
    joint = Joint(blocks, start, GROUP, [i for g in groups for i in GROUPS[g]], add, pool)
    for _ in range(passes):
        joint.refine(0.99)
    return joint


def test_moving_is_shifting_where_nothing_tilts():
    d = np.array([0.1, -0.2, 0.3, 0, 0])
    np.testing.assert_allclose(
        geometry_fit.placed(detector(), d).origin_mm,
        geometry.shifted(detector(), *d[:3]).origin_mm,
        atol=1e-12,
    )


def test_tilting_keeps_the_body_and_the_beam_centre():
    before = detector()
    after = geometry_fit.placed(detector(), np.array([0, 0, 0, 0.01, -0.02]))
    corners = [
        geometry.position(x, np.arange(4), np.full(4, 9.0), np.full(4, 700.0))
        for x in (before, after)
    ]
    between = [np.linalg.norm(c[:, None] - c, axis=-1) for c in corners]
    np.testing.assert_allclose(*between, atol=1e-10)
    np.testing.assert_allclose(
        [x[0] for x in geometry.beam_center(before)], [x[0] for x in geometry.beam_center(after)]
    )
    np.testing.assert_allclose(np.arccos(after.fast[0] @ before.fast[0]), 0.02, rtol=1e-4)


@pytest.mark.stage
def test_elimination_equals_one_dense_solve():
    """The steps of the detector and of every lattice, from 5 + 4 · 6 unknowns at once."""
    d = np.array([0.02, -0.01, 0.05, 1e-4, -1e-4])
    free = [0, 1, 2, 3, 4]
    where = {"detector": geometry_fit.placed(detector(), d), "space_group": GROUP}
    members = [
        geometry_fit.member(x.A, x.eta_rad, x.hkl, x.spots, pulse=x.pulse, **where)
        for x in lattices(4, detector())
    ]
    total, eliminated = geometry_fit.partials(detector(), d, members, free)
    step = geometry_fit.solve(total, 5).step
    stepped = [m.p for m in geometry_fit.back(members, eliminated, step)]
    m = len(members[0].p)
    H = np.zeros((5 + 4 * m, 5 + 4 * m))
    g = np.zeros(5 + 4 * m)
    for i, one in enumerate(members):
        residual, by_p, by_d = (
            np.asarray(x) for x in geometry_fit._linearized(detector(), d, *one)
        )
        J = np.zeros((*residual.shape, len(g)))
        at = slice(5 + i * m, 5 + i * m + m)
        J[:, :, :5], J[:, :, at] = by_d, by_p
        weight = (
            refinement.student((residual**2 / one.observed.variance).sum(1))[1] * one.observed.valid
        )
        w = weight[:, None] / one.observed.variance
        H += np.einsum("sam,sa,san->mn", J, w, J)
        g += np.einsum("sam,sa,sa->m", J, w, residual)
        centre, precision = refinement.prior(
            one.frame, np.log(refinement.ETA_PRIOR_RAD), refinement.ETA_PRIOR_LOG
        )
        H[at, at] += np.diag(precision)
        g[at] -= precision * (one.p - centre)
    scale = 1 / np.sqrt(np.diag(H))
    dense = scale * np.linalg.solve(H * np.outer(scale, scale), scale * g)
    np.testing.assert_allclose(step, dense[:5], rtol=1e-7)
    np.testing.assert_allclose(
        np.concatenate(stepped) - np.concatenate([x.p for x in members]), dense[5:], rtol=1e-6
    )


def test_derivatives_by_the_detector_equal_finite_differences():
    (x,) = lattices(1, detector())
    d = np.array([0.02, -0.01, 0.05, 1e-3, -1e-3])
    where = {"detector": geometry_fit.placed(detector(), d), "space_group": GROUP, "pulse": x.pulse}
    one = geometry_fit.member(x.A, x.eta_rad, x.hkl, x.spots, **where)

    def at(d):
        return geometry_fit._linearized(detector(), d, *one)

    by_d = at(d)[2]
    for k in range(5):
        step = np.eye(5)[k] * 1e-5
        np.testing.assert_allclose(
            (at(d - step)[0] - at(d + step)[0]) / 2e-5, by_d[:, :, k], rtol=1e-5, atol=1e-4
        )


@pytest.mark.stage
@pytest.mark.parametrize("groups", [("shift", "distance"), ("shift", "distance", "tilt")])
def test_planted_move_is_found_within_its_sigma(groups):
    planted = np.array([0.09, -0.05, 0.2, 2e-3, -1e-3]) * (
        [1, 1, 1, 1, 1] if "tilt" in groups else [1, 1, 1, 0, 0]
    )
    true = geometry_fit.placed(detector(), planted)
    figures = (joint := solved(lattices(30, true), detector(), groups)).figures()
    sigma = np.array(
        [*figures["shift_sigma_mm"], figures["distance_sigma_mm"], *figures["tilt_sigma_rad"]]
    )
    assert np.all(np.abs(joint.d - planted) <= 3 * sigma)
    assert np.all(sigma[:2] < 0.002) and sigma[2] < 0.02 and np.all(sigma[3:] < 1e-4)
    np.testing.assert_allclose(figures["distance_mm"], geometry.distances_mm(true)[0], atol=0.03)
    assert 3 * 30 * 0.5 < figures["n_outliers"] < 3 * 30 * 2
    before = figures["rmsd_before"]
    after = figures["rmsd_after"]
    assert before["n"] == after["n"] and after["transverse_px"] < before["transverse_px"]


@pytest.mark.stage
def test_sigma_is_the_scatter_of_repeated_refinements():
    """Distances from four disjoint sets of ten lattices, in units of their σ."""
    everything = lattices(40, detector())
    pulls = []
    for k in range(4):
        figures = solved(
            everything[10 * k : 10 * k + 10], detector(), ["shift", "distance"], passes=1
        ).figures()
        sigma = np.array([*figures["shift_sigma_mm"], figures["distance_sigma_mm"]])
        pulls.append(np.array([*figures["shift_mm"], figures["distance_change_mm"]]) / sigma)
    assert 0.5 < np.sqrt(np.mean(np.square(pulls))) < 1.7


@pytest.mark.stage
def test_a_lattice_without_sense_takes_no_part():
    """The same detector, bit by bit, as without it."""
    found = lattices(8, detector())
    where = {"detector": detector(), "space_group": GROUP}
    members = [
        geometry_fit.member(x.A, x.eta_rad, x.hkl, x.spots, pulse=x.pulse, **where) for x in found
    ]
    lost = members[0]._replace(frame=members[0].frame._replace(U=np.full((3, 3), np.nan)))
    with_it, eliminated = geometry_fit.partials(detector(), np.zeros(5), [*members, lost], [0])
    without, _ = geometry_fit.partials(detector(), np.zeros(5), members, [0])
    np.testing.assert_array_equal(with_it, without)
    assert np.all(eliminated[-1].start == 0)

"""The detector from many lattices: the elimination against one dense solve, and planted moves found
again.
"""

import numpy as np
import pytest

from spreadflow.analysis import geometry_fit
from spreadflow.analysis.geometry_fit import GROUPS, Member
from spreadflow.analysis.geometry_joint import IndexedLattice, Joint, LatticeIdentity
from spreadflow.analysis.still import centroid_fit, prediction, refinement
from spreadflow.analysis.still.prediction import MosaicLattice
from spreadflow.models import Detector, Spectrum, Spots
from spreadflow.physics import geometry, rotation, unit_cell

GROUP = "P 41 21 2"
CELL = [70.0, 70.0, 110.0, 90.0, 90.0, 90.0]
ETA = 8e-4
DOMAIN = 2500.0
NOISE_PX = 0.1


def tilted(turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Return fast and slow axis of a panel turned about two axes by `turn` rad."""
    vector = np.array([turn, -turn / 2, turn / 3])
    R = rotation.from_vector(vector)
    fast = R @ [1.0, 0, 0]
    slow = R @ [0, -1.0, 0]
    return fast, slow


def detector() -> Detector:
    """Return a detector of four tilted panels with gaps."""
    corners = [
        (-81.0, 81.0, -110.0),
        (1.0, 80.5, -110.3),
        (-80.5, -1.0, -110.6),
        (1.5, -1.5, -110.9),
    ]
    axes = np.array([tilted(turn) for turn in (0.0, 0.004, -0.003, 0.002)])
    return Detector(
        origin_mm=np.array(corners),
        fast=axes[:, 0],
        slow=axes[:, 1],
        pixel_mm=np.array(0.1),
        shape=(800, 800),
    )


def pulse(rng) -> Spectrum:
    energies = np.arange(7080.0, 7160.0, 2.0)
    centre = 7120 + 5 * rng.normal()
    envelope = np.exp(-0.5 * ((energies - centre) / 10) ** 2)
    return Spectrum(energies, envelope * rng.gamma(3.0, size=len(energies)))


def lattices(n: int, true: Detector) -> list[IndexedLattice]:
    """Return lattices whose spots lie on the true detector, with orientations and cells a little
    wrong.
    """
    return [_lattice(seed, true) for seed in range(n)]


def _lattice(seed: int, true: Detector) -> IndexedLattice:
    rng = np.random.default_rng(seed)
    A = rotation.random(rng) @ unit_cell.reciprocal(unit_cell.radians(CELL))
    spectrum = pulse(rng)
    predicted = prediction.predict(
        MosaicLattice(A, ETA, DOMAIN),
        spectrum,
        true,
        space_group=GROUP,
        d_min=2.2,
        partiality_min=0.03,
    )
    n = min(60, len(predicted.hkl))
    rows = rng.choice(len(predicted.hkl), n, replace=False)
    fast = predicted.fast[rows] + NOISE_PX * rng.normal(size=n)
    slow = predicted.slow[rows] + NOISE_PX * rng.normal(size=n)
    fast[:3] += rng.uniform(1, 2.5, size=3)  # outliers
    spots = Spots(
        panel=predicted.panel[rows],
        fast=fast,
        slow=slow,
        variance_fast=np.full(n, NOISE_PX**2),
        variance_slow=np.full(n, NOISE_PX**2),
        intensity=np.full(n, 100.0),
        sigma=np.ones(n),
        n_pixels=np.full(n, 9.0),
    )
    turn = rotation.from_vector(rng.normal(size=3) * 2e-4)
    start = turn @ A * (1 + 3e-4 * rng.normal())
    return IndexedLattice(
        identity=LatticeIdentity(run=0, shot_id=seed, k=0),
        lattice=MosaicLattice(start, ETA, DOMAIN),
        hkl=predicted.hkl[rows],
        spots=spots,
        spectrum=prediction.compress(spectrum),
    )


def false_lattice(shot_id: int, true: Detector) -> IndexedLattice:
    """Return a lattice with spots by chance: strewn evenly within 2.5 px of its predictions."""
    lattice = _lattice(shot_id, true)
    rng = np.random.default_rng(shot_id)
    n = len(lattice.hkl)
    spots = lattice.spots._replace(
        fast=lattice.spots.fast + rng.uniform(-2.5, 2.5, size=n),
        slow=lattice.spots.slow + rng.uniform(-2.5, 2.5, size=n),
    )
    return lattice._replace(spots=spots)


def turned_lattice(shot_id: int, true: Detector) -> IndexedLattice:
    """Return a lattice whose spots all lie 1 px to one side, those of another part of the crystal
    or of a panel that moved.
    """
    lattice = _lattice(shot_id, true)
    spots = lattice.spots._replace(fast=lattice.spots.fast + 1.0)
    return lattice._replace(spots=spots)


def member(x: IndexedLattice, on: Detector) -> Member:
    """Return a lattice, with its spots as indexed, ready to take part."""
    return geometry_fit.member(x.lattice, x.hkl, x.spots, x.spectrum, on, GROUP)


def add(partials):
    return sum(partials[b] for b in sorted(partials))


def pool(parts):
    return [parts[b] for b in sorted(parts)]


def solved(indexed, start, groups, passes=2) -> Joint:
    """Return the joint refinement of lattices in blocks of ten."""
    n_blocks = -(-len(indexed) // 10)
    blocks = {block: indexed[10 * block : 10 * block + 10] for block in range(n_blocks)}
    free = [number for group in groups for number in GROUPS[group]]
    joint = Joint(blocks, start, GROUP, free, add, pool, 10)
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

    centre_before, centre_after = (
        [coordinate[0] for coordinate in geometry.beam_center(x)] for x in (before, after)
    )
    np.testing.assert_allclose(centre_before, centre_after)
    np.testing.assert_allclose(np.arccos(after.fast[0] @ before.fast[0]), 0.02, rtol=1e-4)


@pytest.mark.stage
def test_elimination_equals_one_dense_solve():
    """The steps of the detector and of every lattice, from 5 + 4 · 6 unknowns at once."""
    d = np.array([0.02, -0.01, 0.05, 1e-4, -1e-4])
    free = [0, 1, 2, 3, 4]
    there = geometry_fit.placed(detector(), d)
    members = [member(x, there) for x in lattices(4, detector())]
    total, eliminated = geometry_fit.partials(detector(), d, members, free)
    step = geometry_fit.solve(total, 5).step
    stepped = geometry_fit.back(members, eliminated, step)

    m = len(members[0].p)
    H = np.zeros((5 + 4 * m, 5 + 4 * m))
    g = np.zeros(5 + 4 * m)
    for i, one in enumerate(members):
        own = slice(5 + i * m, 5 + i * m + m)
        _add_normal_equations(H, g, d, one, own)
    scale = 1 / np.sqrt(np.diag(H))
    dense = scale * np.linalg.solve(H * np.outer(scale, scale), scale * g)

    np.testing.assert_allclose(step, dense[:5], rtol=1e-7)
    steps = [after.p - before.p for after, before in zip(stepped, members, strict=True)]
    np.testing.assert_allclose(np.concatenate(steps), dense[5:], rtol=1e-6)


def _add_normal_equations(H, g, d, one: Member, own: slice) -> None:
    """Add a lattice's normal equations, by the detector and by its unknowns at `own`, to the dense
    ones.
    """
    observed = one.observed
    residual, by_p, by_d = (np.asarray(x) for x in geometry_fit._linearized(detector(), d, one))
    J = np.zeros((*residual.shape, len(g)))
    J[:, :, :5] = by_d
    J[:, :, own] = by_p
    z2 = (residual**2 / observed.variance).sum(1)
    weight = centroid_fit.student(z2)[1] * observed.valid
    w = weight[:, None] / observed.variance
    H += np.einsum("sam,sa,san->mn", J, w, J)
    g += np.einsum("sam,sa,sa->m", J, w, residual)

    ln_eta = np.log(refinement.ETA_PRIOR_RAD)
    centre, precision = centroid_fit.prior(one.model.frame, ln_eta, refinement.ETA_PRIOR_LOG)
    H[own, own] += np.diag(precision)
    g[own] -= precision * (one.p - centre)


def test_derivatives_by_the_detector_equal_finite_differences():
    (x,) = lattices(1, detector())
    d = np.array([0.02, -0.01, 0.05, 1e-3, -1e-3])
    one = member(x, geometry_fit.placed(detector(), d))

    def residual(d):
        return geometry_fit._linearized(detector(), d, one)[0]

    by_d = geometry_fit._linearized(detector(), d, one)[2]
    for k in range(5):
        step = np.eye(5)[k] * 1e-5
        difference = (residual(d - step) - residual(d + step)) / 2e-5
        np.testing.assert_allclose(difference, by_d[:, :, k], rtol=1e-5, atol=1e-4)


@pytest.mark.stage
@pytest.mark.parametrize("groups", [("shift", "distance"), ("shift", "distance", "tilt")])
def test_planted_move_is_found_within_its_sigma(groups):
    planted = np.array([0.09, -0.05, 0.2, 2e-3, -1e-3])
    if "tilt" not in groups:
        planted[3:] = 0.0
    true = geometry_fit.placed(detector(), planted)
    joint = solved(lattices(30, true), detector(), groups)
    figures = joint.figures()
    sigma = np.array(
        [*figures["shift_sigma_mm"], figures["distance_sigma_mm"], *figures["tilt_sigma_rad"]]
    )

    assert np.all(np.abs(joint.d - planted) <= 3 * sigma)
    assert np.all(sigma[:2] < 0.002)
    assert sigma[2] < 0.02
    assert np.all(sigma[3:] < 1e-4)
    np.testing.assert_allclose(figures["distance_mm"], geometry.distances_mm(true)[0], atol=0.03)
    assert 3 * 30 * 0.5 < figures["n_outliers"] < 3 * 30 * 2
    before = figures["rmsd_before"]
    after = figures["rmsd_after"]
    assert before["n"] == after["n"]
    assert after["transverse_px"] < before["transverse_px"]


@pytest.mark.stage
def test_sigma_is_the_scatter_of_repeated_refinements():
    """Distances from four disjoint sets of ten lattices, in units of their σ."""
    everything = lattices(40, detector())
    pulls = []
    for k in range(4):
        ten = everything[10 * k : 10 * k + 10]
        figures = solved(ten, detector(), ["shift", "distance"], passes=1).figures()
        sigma = np.array([*figures["shift_sigma_mm"], figures["distance_sigma_mm"]])
        pulls.append(np.array([*figures["shift_mm"], figures["distance_change_mm"]]) / sigma)

    assert 0.5 < np.sqrt(np.mean(np.square(pulls))) < 1.7


def test_bend_is_what_the_curvature_of_the_loss_lacks():
    """Second differences of the loss along both directions, against twice the weight."""
    step = 1e-3
    for x, y in ((0.0, 0.0), (0.5, -1.0), (3.0, 1.0)):
        moved = np.array([(x, y), (x + step, y), (x - step, y), (x, y + step), (x, y - step)])
        z2 = (moved**2).sum(axis=1)
        loss, weight = centroid_fit.student(z2)
        curvature = (loss[1:].sum() - 4 * loss[0]) / step**2
        expected = 2 * weight[0] - centroid_fit.bend(z2)[0]
        assert curvature == pytest.approx(expected, abs=1e-5)


@pytest.mark.stage
def test_a_lattice_without_sense_takes_no_part():
    """The same detector, bit by bit, as without it."""
    members = [member(x, detector()) for x in lattices(8, detector())]
    model = members[0].model
    nowhere = model.frame._replace(U=np.full((3, 3), np.nan))
    lost = members[0]._replace(model=model._replace(frame=nowhere))
    with_it, eliminated = geometry_fit.partials(detector(), np.zeros(5), [*members, lost], [0])
    without, _ = geometry_fit.partials(detector(), np.zeros(5), members, [0])

    np.testing.assert_array_equal(with_it, without)
    assert np.all(eliminated[-1].start == 0)


@pytest.mark.stage
def test_lattices_unlike_the_others_are_named_and_have_no_say():
    """Two false lattices and one that asks for a detector of its own among sixteen: the true
    detector, and, but for spots at the edge of the ellipse, the one found without them.
    """
    true = geometry_fit.placed(detector(), np.array([0.09, -0.05, 0.1, 0, 0]))
    good = lattices(16, true)
    bad = [false_lattice(101, true), false_lattice(102, true), turned_lattice(103, true)]
    groups = ["shift", "distance"]
    with_them = solved([*good[:7], *bad, *good[7:]], detector(), groups)
    without_them = solved(good, detector(), groups)

    assert [x.identity.shot_id for x in with_them.left_out] == [101, 102, 103]
    assert all(reasons for _, reasons in with_them.left_out)
    assert without_them.left_out == []
    figures = without_them.figures()
    sigma = np.array([*figures["shift_sigma_mm"], figures["distance_sigma_mm"]])
    assert np.all(np.abs(with_them.d - without_them.d)[:3] < sigma)
    assert np.all(np.abs(with_them.d[:3] - (0.09, -0.05, 0.1)) < 3 * sigma)
    assert abs(with_them.n_used - without_them.n_used) < 10
    assert with_them.figures()["rmsd_after"]["n"] == figures["rmsd_after"]["n"]


@pytest.mark.stage
def test_the_distance_of_a_thick_sensor_is_found_where_its_parallax_is_known():
    """Spots that a sensor of 0.5 mm records at their depth: the true distance within 3 σ; without
    the parallax, many σ off, and a worse fit.
    """
    thick = detector()._replace(thickness_mm=0.5, attenuation_mm=0.4, parallax_mm=0.4)
    shots = lattices(12, thick)
    pulls, rmsd = np.zeros((2, 2))
    for i, start in enumerate((thick, thick._replace(parallax_mm=None))):
        figures = solved(shots, start, ["shift", "distance"]).figures()
        pulls[i] = figures["distance_change_mm"] / figures["distance_sigma_mm"]
        rmsd[i] = figures["rmsd_after"]["radial_px"]

    assert abs(pulls[0]) < 3
    assert pulls[1] > 10
    assert rmsd[0] < rmsd[1]

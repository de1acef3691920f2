"""The detector from many lattices: the elimination against one dense solve, and planted moves found
again, of the whole and of its rigid groups.
"""

import numpy as np
import pytest

from spreadflow.analysis import detector_moves, geometry_fit, geometry_steps
from spreadflow.analysis.detector_moves import Position
from spreadflow.analysis.geometry_fit import Member
from spreadflow.analysis.geometry_joint import IndexedLattice, Joint, LatticeIdentity
from spreadflow.analysis.still import centroid_fit, prediction, refinement
from spreadflow.analysis.still.prediction import MosaicLattice
from spreadflow.config import RigidGroupsSection
from spreadflow.models import Detector, Spectrum, Spots
from spreadflow.physics import geometry, rotation, unit_cell
from spreadflow.recipes.level0_checks import warnings_of

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


def at(d: np.ndarray, refined=detector_moves.KINDS) -> Position:
    """Return the detector after a move as a body."""
    moves = detector_moves.moves_of(detector(), refined)
    return detector_moves.position(detector(), moves, d)


def add(partials):
    return sum(partials[b] for b in sorted(partials))


def pool(parts):
    return [parts[b] for b in sorted(parts)]


def solved(indexed, start, refined, passes=2, groups=None) -> Joint:
    """Return the joint refinement of lattices in blocks of ten."""
    n_blocks = -(-len(indexed) // 10)
    blocks = {block: indexed[10 * block : 10 * block + 10] for block in range(n_blocks)}
    moves = detector_moves.moves_of(start, refined, groups)
    joint = Joint(blocks, start, GROUP, moves, add, pool, 10)
    for _ in range(passes):
        joint.refine(0.99)
    return joint


def test_moving_is_shifting_where_nothing_tilts():
    d = np.array([0.1, -0.2, 0.3, 0, 0])
    np.testing.assert_allclose(
        detector_moves.placed(detector(), d).origin_mm,
        geometry.shifted(detector(), *d[:3]).origin_mm,
        atol=1e-12,
    )


def test_tilting_keeps_the_body_and_the_beam_centre():
    before = detector()
    after = detector_moves.placed(detector(), np.array([0, 0, 0, 0.01, -0.02]))
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
    """The step of the detector, from 5 + 4 · 6 unknowns at once."""
    d = np.array([0.02, -0.01, 0.05, 1e-4, -1e-4])
    position = at(d)
    members = [member(x, position.detector) for x in lattices(4, detector())]
    total = geometry_fit.partials(position, members)
    step = geometry_fit.solve(total, position.moves, d).step

    m = len(members[0].p)
    H = np.zeros((5 + 4 * m, 5 + 4 * m))
    g = np.zeros(5 + 4 * m)
    for i, one in enumerate(members):
        own = slice(5 + i * m, 5 + i * m + m)
        _add_normal_equations(H, g, d, one, own)
    scale = 1 / np.sqrt(np.diag(H))
    dense = scale * np.linalg.solve(H * np.outer(scale, scale), scale * g)

    np.testing.assert_allclose(step, dense[:5], rtol=1e-7)


def _add_normal_equations(H, g, d, one: Member, own: slice) -> None:
    """Add a lattice's normal equations, by the detector and by its unknowns at `own`, to the dense
    ones.
    """
    observed = one.observed
    residual, by_p, by_d, _ = geometry_fit.linearized(at(d), one)
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
    one = member(x, at(d).detector)

    def residual(d):
        return geometry_fit.linearized(at(d), one).offset

    by_d = geometry_fit.linearized(at(d), one).by_d
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
    true = detector_moves.placed(detector(), planted)
    joint = solved(lattices(30, true), detector(), groups)
    figures = joint.figures()
    sigma = np.array(
        [*figures["shift_sigma_mm"], figures["distance_sigma_mm"], *figures["tilt_sigma_rad"]]
    )

    assert np.all(np.abs(joint.position.d - planted) <= 3 * sigma)
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
    position = at(np.zeros(5))
    with_it = geometry_fit.partials(position, [*members, lost])
    without = geometry_fit.partials(position, members)

    np.testing.assert_array_equal(with_it, without)
    np.testing.assert_array_equal(geometry_steps.refined(lost, position.detector).p, lost.p)


@pytest.mark.stage
def test_lattices_unlike_the_others_are_named_and_have_no_say():
    """Two false lattices and one that asks for a detector of its own among sixteen: the true
    detector, and, but for spots at the edge of the ellipse, the one found without them.
    """
    true = detector_moves.placed(detector(), np.array([0.09, -0.05, 0.1, 0, 0]))
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
    assert np.all(np.abs(with_them.position.d - without_them.position.d)[:3] < sigma)
    assert np.all(np.abs(with_them.position.d[:3] - (0.09, -0.05, 0.1)) < 3 * sigma)
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


# ---------------------------------------------------------------- rigid groups

QUADRANTS = np.arange(16) // 4
MODULES = np.arange(16) // 2
IN_PLANE = ("shift", "turn")


def tiles() -> Detector:
    """Return a detector of 16 panels in 8 modules of two in 4 quadrants."""
    middles = np.array(
        [(x, y) for x in (-60.0, -20.0, 20.0, 60.0) for y in (-60.0, -20.0, 20.0, 60.0)]
    )
    by_quadrant = np.lexsort((middles[:, 0], middles[:, 1] > 0, middles[:, 0] > 0))
    rng = np.random.default_rng(3)
    corners = np.column_stack([middles[by_quadrant] + (-19.5, 19.5), -110 + rng.normal(size=16)])
    axes = np.array([tilted(turn) for turn in 2e-3 * rng.normal(size=16)])
    return Detector(corners, axes[:, 0], axes[:, 1], pixel_mm=np.array(0.1), shape=(390, 390))


def moves_of_tiles(group_of_panel, refined=IN_PLANE) -> detector_moves.Moves:
    groups = detector_moves.RigidGroups(group_of_panel, refined, sigma_mm=0.3, sigma_rad=5e-3)
    return detector_moves.moves_of(tiles(), ("shift", "distance"), groups)


def planted(moves: detector_moves.Moves, seed: int = 7) -> np.ndarray:
    """Return unknowns with moves of 0.08 mm and 0.5 mrad that leave the whole where it is, and a
    shift of it.
    """
    rng = np.random.default_rng(seed)
    sizes = np.array([0.08, 0.08, 0.08, 5e-4, 5e-4, 5e-4])
    raw = np.concatenate([(0.05, -0.04, 0.1, 0, 0), np.tile(sizes, moves.n_groups)])
    raw[5:] *= rng.normal(size=len(raw) - 5)
    return moves.basis @ np.linalg.lstsq(moves.basis, raw, rcond=None)[0]


def solved_tiles(moves: detector_moves.Moves, true: Detector, n: int) -> Joint:
    """Return the joint refinement of n lattices whose spots lie on the true detector."""
    indexed = lattices(n, true)
    blocks = {block: indexed[10 * block : 10 * block + 10] for block in range(-(-n // 10))}
    joint = Joint(blocks, tiles(), GROUP, moves, add, pool, 10)
    for _ in range(2):
        joint.refine(0.99)
    return joint


@pytest.mark.stage
@pytest.mark.parametrize("group_of_panel", [QUADRANTS, MODULES], ids=["quadrants", "modules"])
def test_planted_moves_of_groups_are_found_within_their_sigma(group_of_panel):
    """Errors in units of their σ, over all unknowns that are refined."""
    moves = moves_of_tiles(group_of_panel)
    d = planted(moves)
    true = detector_moves.placed(tiles(), d, group_of_panel)
    joint = solved_tiles(moves, true, 40)
    sigma = np.sqrt(np.diag(joint.solution.covariance))
    is_refined = moves.basis.any(axis=1)
    pulls = (joint.position.d - d)[is_refined] / sigma[is_refined]

    assert np.abs(pulls).max() < 4
    assert 0.5 < np.sqrt(np.mean(pulls**2)) < 1.5
    assert np.all(joint.position.d[~is_refined] == 0)
    assert np.all(sigma[5:].reshape(-1, 6)[:, :2] < 0.02)

    figures = joint.figures() | {"n_lattices": 40, "outcomes": {"unlike": 0}}
    assert figures["panel_share"] < 0.05
    assert [row["panels"] for row in figures["rigid_groups"]] == [
        np.flatnonzero(group_of_panel == group).tolist() for group in range(moves.n_groups)
    ]
    for when in ("rmsd_before", "rmsd_after"):
        rows = [row[when] for row in figures["rigid_groups"]]
        assert sum(row["n"] for row in rows) == figures[when]["n"]
    after = [row["rmsd_after"]["transverse_px"] for row in figures["rigid_groups"]]
    before = [row["rmsd_before"]["transverse_px"] for row in figures["rigid_groups"]]
    assert np.mean(after) < 0.7 * np.mean(before)
    warnings = warnings_of(figures, None, RigidGroupsSection(which="modules"))
    assert [w.what for w in warnings if "panels" in w.what or "groups" in w.what] == []


@pytest.mark.stage
def test_panels_that_do_not_move_together_are_named():
    """Modules are displaced, and quadrants refined."""
    of_modules = moves_of_tiles(MODULES)
    true = detector_moves.placed(tiles(), planted(of_modules), MODULES)
    figures = solved_tiles(moves_of_tiles(QUADRANTS), true, 20).figures()
    figures |= {"n_lattices": 20, "outcomes": {"unlike": 0}}
    sentences = [w.sentence() for w in warnings_of(figures, None, RigidGroupsSection())]
    assert any("panels are not where they are refined to" in text for text in sentences)


def test_elimination_of_groups_equals_one_dense_sum():
    """Columns that a lattice's spots do not touch add nothing: as from all unknowns at once."""
    moves = moves_of_tiles(MODULES, ("shift", "distance", "tilt", "turn"))
    position = detector_moves.position(tiles(), moves, planted(moves))
    (one,) = (member(x, position.detector) for x in lattices(1, position.detector))
    one = geometry_fit.Member(
        one.model, one.p, one.observed._replace(valid=one.observed.valid & (one.observed.panel < 6))
    )
    flat = geometry_fit.partials(position, [one])
    sums = geometry_fit.sums_of(flat, len(position.d))
    untouched = detector_moves.numbers_of_groups(np.arange(3, 8))
    assert not sums.information[untouched].any() and not sums.gradient[untouched].any()
    solution = geometry_fit.solve(flat, moves, position.d)
    assert np.isfinite(solution.step).all()
    assert np.all(np.diag(solution.covariance) >= 0)

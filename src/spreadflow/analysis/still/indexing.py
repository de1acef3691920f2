"""Lattices of a still from the reciprocal vectors of its spots and a roughly known cell.

A direct lattice vector v turns every spot q of its lattice into an integer v·q. So (after TORO,
Gasparotto et al. 2024, J. Appl. Cryst. 57, 931, but with neither lengths nor angles held rigid):

1. trial vectors fill the half shell of lengths that one axis of the reduced primitive cell may
   have; the spots whose phase the grid resolves score them by Σ w |v·q − round(v·q)|;
2. the best are refined by least squares on spots of ever higher resolution, and duplicates
   dropped;
3. around each, a ring of trial vectors at the right angle finds the second axis among the first
   one's own spots, and a small box the third among the spots of both: long axes are never
   searched blindly;
4. the triple is brought to the conventional setting nearest to the target cell and to the
   symmetry of its metric;
5. orientation and symmetry-reduced metric are refined together, which decides what is indexed;
6. a lattice counts when so many indexed spots cannot be chance (`beyond_chance`); its spots go,
   and the search is repeated. Where nothing is found, the second and then the third axis lead the
   search.

Steps 1 to 3 are `search_space` and `trial_vectors`, step 4 is `setting`. A lattice of unknown cell
needs `Plan`s of wide shells and boxes and a `setting.conventional` that takes the reduced cell as
it is; nothing else knows a cell.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis.still.search_space import Grid, Plan, Target, axes_frame
from spreadflow.analysis.still.setting import constrain, conventional
from spreadflow.analysis.still.trial_vectors import N_SIGMA, USUAL_ERRORS, Errors, search
from spreadflow.physics import rotation, symmetry, unit_cell

N_LEADING = 256
"""Trial vectors that are refined for the leading axis."""

N_SECOND = 24
"""Trial vectors that are refined for the second axis."""

N_THIRD = 8
"""Trial vectors that are refined for the third axis."""

N_LEADS = 4
"""Leading axes that are followed up."""

N_SECONDS = 2
"""Second axes that are followed up for each leading one."""

AGREES = 0.3
"""Distance from a Miller index below which a spot belongs to its node, as in DIALS
(`hkl_tolerance`).
"""

SAME_CRYSTAL_RAD = np.deg2rad(1.0)
"""Two lattices whose orientations are closer than this are one crystal."""

CHANCE = 1e-3
"""Probability that a lattice is found by chance, below which it counts."""


class Candidate(NamedTuple):
    """One lattice that explains spots."""

    A: np.ndarray
    """(3, 3) conventional reciprocal matrix, Å⁻¹, its metric as the symmetry demands"""
    hkl: np.ndarray
    """(n, 3) int32 conventional Miller index of each spot; 0 0 0 = not of this lattice"""
    n_indexed: int


def find_lattices(
    q: np.ndarray,
    weights: np.ndarray,
    target: Target,
    errors: Errors = USUAL_ERRORS,
    *,
    max_lattices: int = 1,
    min_indexed: int = 8,
    min_fraction: float = 0.3,
) -> list[Candidate]:
    """Return the lattices of one shot, in the order in which they are found.

    q: (n, 3) reciprocal vectors (ŝ − ŝ₀)/λ of the spots, lab frame, Å⁻¹. weights: (n,) trust in a
    spot, ≥ 0; the heaviest lead the search. target: the expected lattice, as from
    `search_space.target_of`. min_indexed: spots that a lattice must index; min_fraction: the same
    as a fraction of the spots that are still free.
    """
    q = np.asarray(q, dtype=np.float64)
    weights = np.asarray(weights, dtype=np.float64)
    is_away_from_beam = np.linalg.norm(q, axis=1) > 10 * errors.across
    is_free = np.isfinite(q).all(axis=1) & is_away_from_beam

    candidates: list[Candidate] = []
    while len(candidates) < max_lattices:
        n_required = max(min_indexed, int(np.ceil(min_fraction * is_free.sum())))
        if is_free.sum() < n_required:
            break
        lattice = _one_lattice(q[is_free], weights[is_free], target, errors, n_required)
        if lattice is None:
            break

        A, hkl_free = lattice
        hkl = np.zeros((len(q), 3), dtype=np.int32)
        hkl[is_free] = hkl_free
        is_indexed = hkl.any(axis=1)
        is_free &= ~is_indexed
        turns = [symmetry.misorientation(A, c.A, target.space_group) for c in candidates]
        if all(turn > SAME_CRYSTAL_RAD for turn in turns):
            candidates.append(Candidate(A, hkl, int(is_indexed.sum())))
    return candidates


def agreeing(A: np.ndarray, hkl: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return whether A⁻¹q is within `AGREES` of the Miller index, (n,) bool.

    A: (3, 3), Å⁻¹; hkl: (n, 3); q: (n, 3) observed, Å⁻¹.
    """
    observed = q @ np.linalg.inv(A).T
    difference = np.abs(observed - hkl)
    return difference.max(axis=1, initial=0.0) < AGREES


# ---------------------------------------------------------------- lattices


def _one_lattice(
    q: np.ndarray, weights: np.ndarray, target: Target, errors: Errors, n_required: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return A (3, 3) and hkl (n, 3) of the lattice that indexes the most weight.

    None where no lattice indexes n_required spots and more than chance would.
    """
    n_required = max(n_required, beyond_chance(q, target, errors))
    weights = weights / max(weights.max(), 1e-300)

    best = None
    best_weight = 0.0
    for plan in target.plans:
        for basis, common in _bases(plan, q, weights, errors, n_required):
            if len(common) < n_required / 2 or weights[common].sum() <= best_weight:
                continue
            lattice = _lattice_of(basis, q, target, errors, n_required)
            if lattice is None:
                continue
            is_indexed = lattice[1].any(axis=1)
            weight = weights[is_indexed].sum()
            if is_indexed.sum() >= n_required and weight > best_weight:
                best = lattice
                best_weight = weight
        if best is not None:
            break
    return best


def _bases(
    plan: Plan, q: np.ndarray, weights: np.ndarray, errors: Errors, n_required: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield primitive direct bases (3, 3), Å, with the indices of the spots whose products with all
    three axes are integers.
    """
    leads, of_leads = search(plan.shell, np.eye(3), q, weights, errors, N_LEADING)
    length = np.linalg.norm(leads, axis=1)
    shortest, longest = plan.lengths
    has_length = (length >= shortest) & (length <= longest)
    followed = np.flatnonzero(has_length)[:N_LEADS]

    for lead, is_integer in zip(leads[followed], of_leads[followed], strict=True):
        own = np.flatnonzero(is_integer)
        if len(own) < n_required:
            continue

        for second, both in _second_axes(plan.ring, lead, own, q, weights, errors):
            if len(both) < n_required:
                continue

            for sign in (1.0, -1.0):
                first = sign * lead
                frame = axes_frame(first, sign * second)
                thirds, of_thirds = search(plan.box, frame, q[both], weights[both], errors, N_THIRD)
                basis = np.array([first, sign * second, thirds[0]]).T
                yield basis, both[of_thirds[0]]


def _second_axes(
    ring: Grid,
    lead: np.ndarray,
    own: np.ndarray,
    q: np.ndarray,
    weights: np.ndarray,
    errors: Errors,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the best second axes of a leading axis, each with the indices of the spots that both
    turn into integers. own: indices of those of the leading axis.
    """
    across = np.eye(3)[np.argmin(np.abs(lead))]
    frame = axes_frame(lead, across)
    seconds, of_seconds = search(ring, frame, q[own], weights[own], errors, N_SECOND)
    for second, is_integer in zip(seconds[:N_SECONDS], of_seconds[:N_SECONDS], strict=True):
        yield second, own[is_integer]


def _lattice_of(
    basis: np.ndarray, q: np.ndarray, target: Target, errors: Errors, n_required: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the conventional A (3, 3) and hkl (n, 3) that a primitive direct basis (3, 3) refines
    to.

    None if this is not the target's lattice, or on the way indexes less than half of n_required.
    """
    primitive = _refine_primitive(np.linalg.inv(basis).T, q, errors, max(n_required / 2, 4))
    if primitive is None:
        return None
    basis_in_setting = conventional(np.linalg.inv(primitive).T, target)
    if basis_in_setting is None:
        return None

    A = constrain(np.linalg.inv(basis_in_setting).T, target)
    to_conventional = np.linalg.inv(target.primitive)
    for scale in (2.0, 1.5, 1.0, 1.0):
        h, is_indexed = _index(A @ to_conventional.T, q, errors, scale)
        hkl = h[is_indexed] @ to_conventional
        A = _refine(A, hkl, q[is_indexed], target, errors)

    h, is_indexed = _index(A @ to_conventional.T, q, errors, 1.0)
    hkl = np.where(is_indexed[:, None], h @ to_conventional, 0.0)
    hkl = hkl.round().astype(np.int32)
    distance = np.linalg.norm(q - hkl @ A.T, axis=1)
    return A, _once(hkl, distance)


def _refine_primitive(
    A: np.ndarray, q: np.ndarray, errors: Errors, n_least: float
) -> np.ndarray | None:
    """Return a primitive A (3, 3) fitted by least squares, without symmetry, to the spots that it
    indexes; None where these are too few, or in a plane.
    """
    for scale in (2.0, 1.5, 1.0):
        h, is_indexed = _index(A, q, errors, scale)
        h = h[is_indexed]
        if len(h) < n_least or np.linalg.matrix_rank(h) < 3:
            return None
        A = np.linalg.solve(h.T @ h, h.T @ q[is_indexed]).T
    return A


def _index(
    A: np.ndarray, q: np.ndarray, errors: Errors, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest integers (n, 3) in the basis A, and which spots (n,) are within 3·scale
    standard deviations of their node.
    """
    exact = np.linalg.solve(A, q.T).T
    h = np.rint(exact)

    across2, along2 = _split(q - h @ A.T, q)
    across_variance = errors.across**2
    along_variance = across_variance + errors.radial**2 * (q * q).sum(axis=1)
    chi2 = across2 / across_variance + along2 / along_variance

    off_integer = np.abs(exact - h).max(axis=1)
    is_close = off_integer < errors.hkl_tolerance
    is_within = chi2 < (N_SIGMA * scale) ** 2
    return h, is_within & is_close & h.any(axis=1)


def _split(residual: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the squares of residuals (n, 3) across q and along q, each (n,)."""
    product = (residual * q).sum(axis=1)
    along2 = product**2 / (q * q).sum(axis=1)
    total2 = (residual * residual).sum(axis=1)
    return total2 - along2, along2


def _once(hkl: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return Miller indices (n, 3) of which each belongs to the nearest spot only; those of the
    others become 0 0 0.
    """
    order = np.argsort(distance, kind="stable")
    _, first = np.unique(hkl[order], axis=0, return_index=True)
    nearest = order[first]

    out = np.zeros_like(hkl)
    out[nearest] = hkl[nearest]
    return out


def _refine(
    A: np.ndarray, hkl: np.ndarray, q: np.ndarray, target: Target, errors: Errors
) -> np.ndarray:
    """Return A (3, 3) after one Gauss-Newton step of rotation and symmetry-reduced metric, on the q
    (n, 3) of spots with indices hkl (n, 3).
    """
    metric = A.T @ A
    changes = target.strains * np.linalg.norm(metric)
    strains = 0.5 * np.linalg.inv(metric) @ changes

    model = hkl @ A.T
    axes = np.eye(3)
    by_rotation = np.cross(axes[:, None, :], model[None])
    by_strain = hkl @ np.swapaxes(A @ strains, 1, 2)
    jacobian = np.concatenate([by_rotation, by_strain]).transpose(1, 2, 0)

    left = _whitened(jacobian, q, errors).reshape(-1, jacobian.shape[2])
    right = _whitened(q - model, q, errors).reshape(-1)
    step = np.linalg.lstsq(left, right, rcond=1e-8)[0]

    turn = rotation.from_vector(step[:3])
    strain = np.einsum("f,fij->ij", step[3:], strains)
    stretch = np.eye(3) + strain
    return constrain(turn @ A @ stretch, target)


def _whitened(x: np.ndarray, q: np.ndarray, errors: Errors) -> np.ndarray:
    """Return x (n, 3, ...) with the component along q divided by how much less q is known along
    itself than across.
    """
    norm = np.linalg.norm(q, axis=1)
    unit = q / norm[:, None]

    sigma_along = np.hypot(errors.across, errors.radial * norm)
    ratio = errors.across / sigma_along
    other_axes = [1] * (x.ndim - 2)
    factor = (ratio - 1.0).reshape(-1, *other_axes)

    along = np.einsum("ni,ni...->n...", unit, x)
    change = np.einsum("ni,n...->ni...", unit, factor * along)
    return x + change


# ---------------------------------------------------------------- chance


def beyond_chance(q: np.ndarray, target: Target, errors: Errors) -> int:
    """Return how many of the spots q (n, 3) must be indexed so that the best of all cells and
    orientations cannot be chance; more than n where no number is enough.

    A random spot lies within tolerance of a node with probability p = (ellipsoid of three standard
    deviations) · (volume of the primitive cell); the binomial tail among n spots, times the number
    of distinguishable orientations and cells, must stay below `CHANCE`.
    """
    n_spots = len(q)
    norm = np.linalg.norm(q, axis=1)

    # probability that a random spot is at a node
    radial = np.hypot(errors.across, errors.radial * norm)
    ellipsoid = 4.0 / 3.0 * np.pi * N_SIGMA**3 * errors.across**2 * radial
    volume = unit_cell.volume(target.cell) * np.linalg.det(target.primitive)
    p = min(np.mean(ellipsoid * volume), 0.5)

    # decimal logarithms of the numbers of orientations and cells that the spots tell apart
    reach = norm.max() / (N_SIGMA * errors.across)
    rotations = 8.0 * np.pi**2 / len(target.point_group)
    log_orientations = 3.0 * np.log10(reach) + np.log10(rotations)
    per_parameter = max(np.log10(2.0 * target.length_tolerance * reach), 0.0)
    log_cells = per_parameter * len(target.strains)

    n_indexed = np.arange(n_spots)
    log_limit = np.log10(CHANCE) - log_orientations - log_cells
    is_likely = scipy.special.bdtrc(n_indexed, n_spots, p) > 10.0**log_limit
    return int(is_likely.sum()) + 1

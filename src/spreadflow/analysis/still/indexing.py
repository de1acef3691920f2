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

Everything is measured in reciprocal space: an observed q is uncertain by `q_error` Å⁻¹ across
(geometry, centroid) and by `radial_error`·|q| more along its length (bandwidth). Errors of v·q
therefore grow with the axis, as they must.

A lattice of unknown cell needs `Plan`s of wide shells and boxes and a `_conventional` that takes
the reduced cell as it is; nothing else knows a cell.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from spreadflow.analysis.still.search_space import Grid, Plan, Target, axes_frame, target_of
from spreadflow.physics import rotation, symmetry, unit_cell

N_SEARCH = 128  # spots that score trial vectors
N_VECTORS = 256  # trial vectors refined for the leading axis
N_LEADS = 4  # leading axes followed up
AGREES = (
    0.3  # of a Miller index: spots nearer to their node belong to it, as in DIALS (`hkl_tolerance`)
)


class Candidate(NamedTuple):
    """One lattice that explains spots."""

    A: np.ndarray
    """(3, 3) conventional reciprocal matrix, Å⁻¹, its metric as the symmetry demands"""
    hkl: np.ndarray
    """(n, 3) int32 conventional Miller index of each spot; 0 0 0 = not of this lattice"""
    n_indexed: int


class Errors(NamedTuple):
    """How well the observed q are known (one standard deviation)."""

    across: float
    """Å⁻¹"""
    radial: float
    """fraction of |q|, in addition"""


def find_lattices(
    q: np.ndarray,
    weights: np.ndarray,
    cell: np.ndarray,
    space_group: str,
    *,
    length_tolerance: float = 0.05,
    angle_tolerance: float = np.deg2rad(5.0),
    n_directions: int = 32768,
    max_lattices: int = 1,
    min_indexed: int = 8,
    min_fraction: float = 0.3,
    q_error: float = 5e-4,
    radial_error: float = 1e-3,
    hkl_tolerance: float = 0.3,
) -> list[Candidate]:
    """Return lattices of one shot, the one with the most spots first found.

    q: (n, 3) reciprocal vectors (ŝ − ŝ₀)/λ of the spots, lab frame, Å⁻¹. weights: (n,) trust in a
    spot, ≥ 0; the heaviest lead the search. cell: (6,) expected conventional cell (Å, rad) of
    `space_group`. length_tolerance (relative), angle_tolerance (rad): how far the true cell may be
    away. n_directions: trial vectors per axis length. min_fraction: of the spots that are still
    free. q_error (Å⁻¹), radial_error (of |q|): standard deviations of q. hkl_tolerance: largest |h
    − round(h)| on any primitive axis of an indexed spot.
    """
    q = np.asarray(q, dtype=np.float64)
    weights = np.asarray(weights, dtype=np.float64)
    target = target_of(
        tuple(map(float, cell)), space_group, length_tolerance, angle_tolerance, n_directions
    )
    errors = Errors(q_error, radial_error)
    free = np.isfinite(q).all(axis=1) & (np.linalg.norm(q, axis=1) > 10 * q_error)
    found: list[Candidate] = []
    while len(found) < max_lattices:
        enough = max(min_indexed, int(np.ceil(min_fraction * free.sum())))
        if free.sum() < enough:
            break
        lattice_found = _one_lattice(q[free], weights[free], target, errors, hkl_tolerance, enough)
        if lattice_found is None:
            break
        A, hkl_free = lattice_found
        hkl = np.zeros((len(q), 3), dtype=np.int32)
        hkl[free] = hkl_free
        free &= ~hkl.any(axis=1)
        if all(
            symmetry.misorientation(A, other.A, space_group) > np.deg2rad(1.0) for other in found
        ):
            found.append(Candidate(A, hkl, int(hkl.any(axis=1).sum())))
    return found


# ---------------------------------------------------------------- vectors


def agreeing(A: np.ndarray, hkl: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return (n,) bool: A⁻¹q is within `AGREES` of the Miller index. A (3, 3), Å⁻¹; hkl (n, 3); q
    (n, 3) observed, Å⁻¹.
    """
    return np.abs(q @ np.linalg.inv(A).T - hkl).max(axis=1, initial=0.0) < AGREES


def _score(trials: np.ndarray, q: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (m,) Σ w |v·q − round|: small is good."""
    q32 = q.astype(np.float32)
    w32 = weights.astype(np.float32)
    out = np.empty(trials.shape[1], dtype=np.float32)
    for start in range(0, trials.shape[1], 2048):
        part = np.s_[start : start + 2048]
        phase = q32 @ trials[:, part]
        phase -= np.rint(phase)
        out[part] = w32 @ np.abs(phase, out=phase)
    return out


def _tolerance(v: np.ndarray, h: np.ndarray, errors: Errors) -> np.ndarray:
    """Return (k, n) three standard deviations of v·q, at most a quarter; v: (k, 3), h: (k, n) the
    values v·q.
    """
    across = (np.linalg.norm(v, axis=1) * errors.across)[:, None]
    return np.minimum(3.0 * np.hypot(across, errors.radial * h), 0.25)


def _refine_vectors(
    v: np.ndarray, q: np.ndarray, weights: np.ndarray, q_first: float, errors: Errors
) -> tuple[np.ndarray, np.ndarray]:
    """Return least squares of vectors (k, 3) against the integers they make, on spots of ever
    larger |q|.

    Returns the vectors and (k, n) bool: the spots that are integers within the tolerance.
    """
    norm = np.linalg.norm(q, axis=1)
    products = np.stack(
        [q[:, i] * q[:, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))], axis=1
    )
    limits = np.append(np.geomspace(q_first, max(norm.max(), q_first * 1.01), 4), norm.max() * 1.01)
    for limit, widest in zip(limits, (0.3, 0.25, 0.2, 0.15, 0.0), strict=True):
        phase = v @ q.T
        residual = phase - np.rint(phase)
        inside = np.abs(residual) < np.maximum(_tolerance(v, phase, errors), widest)
        w = inside * (weights * (norm <= limit))
        xx, yy, zz, yz, xz, xy = (w @ products).T
        ridge = 1e-4 * (xx + yy + zz) + 1e-12
        normal = np.array(
            [[xx + ridge, xy, xz], [xy, yy + ridge, yz], [xz, yz, zz + ridge]]
        ).transpose(2, 0, 1)
        v = v - np.linalg.solve(normal, ((w * residual) @ q)[:, :, None])[:, :, 0]
    phase = v @ q.T
    return v, np.abs(phase - np.rint(phase)) < _tolerance(v, phase, errors)


def _search(
    grid: Grid, turn: np.ndarray, q: np.ndarray, weights: np.ndarray, errors: Errors, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best n trial vectors of a grid turned by (3, 3), refined: (k, 3) and (k, n) spots;
    the best first.

    Duplicates (also of opposite sign) are dropped. Best: the weight turned into integers beyond
    what chance gives.
    """
    use = _leading(q, weights, grid.q_max)
    score = _score(grid.vectors, q[use] @ turn, weights[use])
    best = np.argpartition(score, min(n, len(score) - 1))[:n]
    v, inside = _refine_vectors((turn @ grid.vectors[:, best]).T, q, weights, grid.q_max, errors)
    chance = 2.0 * _tolerance(v, v @ q.T, errors) @ weights
    order = np.argsort(chance - inside @ weights, kind="stable")
    v = v[order]
    inside = inside[order]
    size2 = (v * v).sum(axis=1)
    same = size2[:, None] + size2 - 2.0 * np.abs(v @ v.T) < (0.03**2) * size2
    distinct = ~np.tril(same, -1).any(axis=1)
    return v[distinct], inside[distinct]


def _leading(q: np.ndarray, weights: np.ndarray, q_max: float) -> np.ndarray:
    """Return indices of the heaviest `N_SEARCH` spots below q_max; of the lowest few where hardly
    any are below.
    """
    norm = np.linalg.norm(q, axis=1)
    q_max = max(q_max, np.sort(norm)[min(len(norm), 16) - 1])
    low = np.flatnonzero(norm <= q_max)
    return low[np.argsort(-weights[low], kind="stable")[:N_SEARCH]]


# ---------------------------------------------------------------- lattices


def _one_lattice(
    q: np.ndarray,
    weights: np.ndarray,
    target: Target,
    errors: Errors,
    hkl_tolerance: float,
    enough: int,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the best lattice of the spots: A and hkl (n, 3), or None."""
    enough = max(enough, beyond_chance(q, target, errors))
    weights = weights / max(weights.max(), 1e-300)
    best, best_weight = None, 0.0
    for plan in target.plans:
        for basis, common in _bases(plan, q, weights, errors, enough):
            if len(common) < enough / 2 or weights[common].sum() <= best_weight:
                continue
            solution = _solve(basis, q, target, errors, hkl_tolerance, enough)
            if solution is None:
                continue
            hit = solution[1].any(axis=1)
            if hit.sum() >= enough and weights[hit].sum() > best_weight:
                best = solution
                best_weight = weights[hit].sum()
        if best is not None:
            break
    return best


def _bases(
    plan: Plan, q: np.ndarray, weights: np.ndarray, errors: Errors, enough: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield primitive direct bases (3, 3) with the indices of the spots all three axes turn into
    integers.
    """
    leads, inside = _search(plan.shell, np.eye(3), q, weights, errors, N_VECTORS)
    size = np.linalg.norm(leads, axis=1)
    fits = np.flatnonzero((size >= plan.lengths[0]) & (size <= plan.lengths[1]))[:N_LEADS]
    for lead, own in zip(leads[fits], inside[fits], strict=True):
        own = np.flatnonzero(own)
        if len(own) < enough:
            continue
        across = np.eye(3)[np.argmin(np.abs(lead))]
        seconds, second_inside = _search(
            plan.ring, axes_frame(lead, across), q[own], weights[own], errors, 24
        )
        for second, of_second in zip(seconds[:2], second_inside[:2], strict=True):
            both = own[of_second]
            if len(both) < enough:
                continue
            for sign in (1.0, -1.0):
                frame = axes_frame(sign * lead, sign * second)
                thirds, third_inside = _search(plan.box, frame, q[both], weights[both], errors, 8)
                yield np.array([sign * lead, sign * second, thirds[0]]).T, both[third_inside[0]]


def _solve(
    basis: np.ndarray,
    q: np.ndarray,
    target: Target,
    errors: Errors,
    hkl_tolerance: float,
    enough: int,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a direct primitive basis (3, 3) → refined conventional A and hkl (n, 3).

    None if it is not the target's lattice, or on the way indexes less than half of what is enough.
    """
    A = np.linalg.inv(basis).T
    for scale in (2.0, 1.5, 1.0):
        h, inside = _index(A, q, errors, scale, hkl_tolerance)
        h = h[inside]
        near = q[inside]
        if len(h) < max(enough / 2, 4) or np.linalg.matrix_rank(h) < 3:
            return None
        A = np.linalg.solve(h.T @ h, h.T @ near).T
    conventional = _conventional(np.linalg.inv(A).T, target)
    if conventional is None:
        return None
    A = _constrain(np.linalg.inv(conventional).T, target)
    to_conventional = np.linalg.inv(target.primitive)
    for scale in (2.0, 1.5, 1.0, 1.0):
        h, inside = _index(A @ to_conventional.T, q, errors, scale, hkl_tolerance)
        A = _refine(A, h[inside] @ to_conventional, q[inside], target, errors)
    h, inside = _index(A @ to_conventional.T, q, errors, 1.0, hkl_tolerance)
    hkl = np.where(inside[:, None], h @ to_conventional, 0.0).round().astype(np.int32)
    return A, _once(hkl, np.linalg.norm(q - hkl @ A.T, axis=1))


def _index(
    A: np.ndarray, q: np.ndarray, errors: Errors, scale: float, hkl_tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return nearest integers (n, 3) in the basis A, and which spots (n,) are at them within
    3·scale standard deviations.
    """
    exact = np.linalg.solve(A, q.T).T
    h = np.rint(exact)
    across2, radial2 = _split(q - h @ A.T, q)
    chi2 = across2 / errors.across**2 + radial2 / (
        errors.across**2 + errors.radial**2 * (q * q).sum(axis=1)
    )
    close = np.abs(exact - h).max(axis=1) < hkl_tolerance
    return h, (chi2 < (3.0 * scale) ** 2) & close & h.any(axis=1)


def _split(residual: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return squares of residuals (n, 3) across and along q."""
    along = (residual * q).sum(axis=1) ** 2 / (q * q).sum(axis=1)
    return (residual * residual).sum(axis=1) - along, along


def _once(hkl: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return a Miller index belongs to the nearest spot only: the others become 0 0 0."""
    order = np.argsort(distance, kind="stable")
    _, first = np.unique(hkl[order], axis=0, return_index=True)
    out = np.zeros_like(hkl)
    out[order[first]] = hkl[order[first]]
    return out


def _conventional(basis: np.ndarray, target: Target) -> np.ndarray | None:
    """Return the conventional basis (3, 3) of the lattice `basis` (3, 3) that is nearest to target
    and symmetric metric.

    All settings within the tolerances are compared: a C lattice has several with nearly the same
    cell, and a wrong target angle may prefer the wrong one, which then violates the symmetry.
    """
    vectors = target.steps @ basis.T
    size = np.linalg.norm(vectors, axis=1)
    wide = target.length_tolerance + 0.01
    axes = [np.flatnonzero(np.abs(size / length - 1.0) < wide) for length in target.cell[:3]]
    i, j, k = (x.ravel() for x in np.meshgrid(*axes, indexing="ij"))
    cosines = [
        (vectors[x] * vectors[y]).sum(axis=1) / (size[x] * size[y])
        for x, y in ((j, k), (i, k), (i, j))
    ]
    angles = np.arccos(np.clip(np.array(cosines).T, -1.0, 1.0))
    offset = np.abs(angles - target.cell[3:])
    keep = (offset < target.angle_tolerance + np.deg2rad(1.0)).all(axis=1)
    i = i[keep]
    j = j[keep]
    k = k[keep]
    angles = angles[keep]
    integers = np.stack([target.steps[i], target.steps[j], target.steps[k]], axis=2)
    to_primitive = integers @ target.primitive
    whole = (np.abs(to_primitive - to_primitive.round()) < 1e-6).all(axis=(1, 2))
    keep = whole & (
        np.abs(np.linalg.det(to_primitive) * np.sign(np.linalg.det(basis)) - 1.0) < 1e-6
    )
    if not keep.any():
        return None
    bases = basis @ integers[keep]
    metric = np.swapaxes(bases, 1, 2) @ bases
    w = target.point_group
    symmetric = np.einsum("gji,njk,gkl->nil", w, metric, w) / len(w)
    violation = np.linalg.norm(metric - symmetric, axis=(1, 2)) / np.linalg.norm(
        metric, axis=(1, 2)
    )
    length = np.linalg.norm(bases, axis=1) / target.cell[:3] - 1.0
    away = np.linalg.norm(length, axis=1) + np.linalg.norm(angles[keep] - target.cell[3:], axis=1)
    return bases[np.argmin(violation / 0.01 + away / 0.05)]


def _constrain(A: np.ndarray, target: Target) -> np.ndarray:
    """Return the A (3, 3) of symmetric metric that is rotated least from A."""
    direct = np.linalg.inv(A).T
    w = target.point_group
    metric = np.einsum("gji,jk,gkl->il", w, direct.T @ direct, w) / len(w)
    B = np.linalg.inv(np.linalg.cholesky(metric))
    return rotation.nearest(A @ np.linalg.inv(B)) @ B


def _refine(
    A: np.ndarray, hkl: np.ndarray, q: np.ndarray, target: Target, errors: Errors
) -> np.ndarray:
    """Return one Gauss-Newton step of rotation and symmetry-reduced metric on q (n, 3) of indices
    hkl (n, 3).
    """
    strains = 0.5 * np.linalg.inv(A.T @ A) @ (target.strains * np.linalg.norm(A.T @ A))
    model = hkl @ A.T
    turned = np.cross(np.eye(3)[:, None, :], model[None])
    strained = hkl @ np.swapaxes(A @ strains, 1, 2)
    jacobian = np.concatenate([turned, strained]).transpose(1, 2, 0)
    residual = q - model
    unit = q / np.linalg.norm(q, axis=1)[:, None]
    ratio = errors.across / np.hypot(errors.across, errors.radial * np.linalg.norm(q, axis=1))

    def whiten(x: np.ndarray) -> np.ndarray:
        along = np.einsum("ni,ni...->n...", unit, x)
        factor = (ratio - 1.0).reshape(-1, *[1] * (x.ndim - 2)) if x.ndim > 2 else ratio - 1.0
        return x + np.einsum("ni,n...->ni...", unit, factor * along)

    step = np.linalg.lstsq(
        whiten(jacobian).reshape(-1, jacobian.shape[2]), whiten(residual).reshape(-1), rcond=1e-8
    )[0]
    moved = (
        rotation.from_vector(step[:3]) @ A @ (np.eye(3) + np.einsum("f,fij->ij", step[3:], strains))
    )
    return _constrain(moved, target)


def beyond_chance(q: np.ndarray, target: Target, errors: Errors) -> int:
    """Return how many of the spots q (n, 3) must be indexed so that the best of all cells and
    orientations cannot be chance.

    A random spot lies within tolerance of a node with probability p = (ellipsoid of three standard
    deviations) · (volume of the primitive cell); the binomial tail among n spots, times the number
    of distinguishable orientations and cells, must stay below 1e-3. More than n where no number is
    enough.
    """
    norm = np.linalg.norm(q, axis=1)
    radial = np.hypot(errors.across, errors.radial * norm)
    volume = unit_cell.volume(target.cell) * np.linalg.det(target.primitive)
    p = min(np.mean(4.0 / 3.0 * np.pi * 27.0 * errors.across**2 * radial * volume), 0.5)
    reach = norm.max() / (3.0 * errors.across)
    orientations = 3.0 * np.log10(reach) + np.log10(8.0 * np.pi**2 / len(target.point_group))
    cells = max(np.log10(2.0 * target.length_tolerance * reach), 0.0) * len(target.strains)
    tail = binom.logsf(np.arange(len(q)), len(q), p) / np.log(10.0)
    return int((tail + orientations + cells > -3.0).sum()) + 1

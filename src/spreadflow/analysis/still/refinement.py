"""Refinement of one lattice of a still by polychromatic centroids: orientation, symmetry-reduced
cell, mosaic spread.

Unknowns p: rotation vector (3, rad) from the left, strain of the reciprocal basis (1-6, the space
group's free cell parameters), ln η. Residuals: observed − predicted centroid in px, radial and
transverse, each over its σ.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.analysis.still import prediction
from spreadflow.models import Array, Detector, Lattice, Spectrum, Spots
from spreadflow.physics import geometry, rotation, symmetry, unit_cell
from spreadflow.units import HC_EV_ANGSTROM

ETA_PRIOR_RAD = 8.7e-4
"""A mosaic spread typical of crystals at an XFEL (0.05°)."""

ETA_PRIOR_LOG = 1.0
"""Standard deviation of the prior of ln η."""

COARSE_ETA_RAD = 5e-3
"""Mosaic spread of the first round, in which the orientation may be wrong by tenths of a degree."""

ROTATION_SIGMA = 0.02
"""Rad; standard deviation of the very weak restraint on the rotation, which a lattice without spots
needs.
"""

HELD = 1e24
"""Precision of unknowns that shall not move."""

STRAIN_SIGMA = 0.01
"""Standard deviation of the weak restraint on the cell, relative to the cell at the start."""

FREEDOM = 4.0
"""Degrees of freedom of the Student t that weights residuals (Lange, Little & Taylor 1989)."""

MODEL_PX = 0.05
"""Error of a predicted centroid that nothing explains, px."""

MODEL_WIDTH = 0.12
"""Error of a predicted centroid relative to the spot's width / √partiality: few domains share a
weakly excited spot.
"""

PARTIALITY_MIN = 1e-5
"""Nodes excited less than this are not given to a spot."""

ROUGH_GAIN = 0.1
"""Gain of the log likelihood below which a fit ends whose spots are assigned anew after it."""

FINE_GAIN = 1e-3
"""Gain of the log likelihood below which the last fit ends."""

I_OVER_SIGMA = 5.0
"""Spots at least this strong count in the r.m.s.d."""


class Frame(NamedTuple):
    """What the unknowns of a lattice are counted from."""

    U: Array
    """(3, 3) rotation"""
    metric: Array
    """(3, 3) reciprocal metric G* = BᵀB, Å⁻²"""
    strains: Array
    """(cell parameter, 3, 3) changes of G* for unit strain"""


class Observed(NamedTuple):
    """Indexed spots, padded (weight 0). Shapes (spot,) unless told."""

    hkl: Array
    """(spot, 3)"""
    panel: Array
    position: Array
    """(spot, 2) fast, slow, px"""
    axes: Array
    """(spot, 2, 2) radial and transverse unit vectors"""
    variance: Array
    """(spot, 2) of the centroid, radial and transverse, px²"""
    valid: Array
    """(spot,) bool"""


class Pulse(NamedTuple):
    """Compressed spectrum and domain edge: what prediction needs beside the lattice and the
    detector.
    """

    energies_ev: Array
    photons: Array
    domain_ang: Array


def frame(A: np.ndarray, space_group: str) -> Frame:
    """Return split A into rotation and the nearest cell that the space group allows; strains are
    orthonormal.
    """
    cell = symmetry.constrain_cell(unit_cell.cell_of(A), space_group)
    B = unit_cell.reciprocal(cell)
    metric = B.T @ B
    lower = np.linalg.cholesky(metric)
    inverse = np.linalg.inv(lower)
    basis = np.array(
        [inverse @ m @ inverse.T for m in symmetry.reciprocal_metric_basis(space_group)]
    )
    *_, orthonormal = np.linalg.svd(basis.reshape(len(basis), 9), full_matrices=False)
    strains = np.array([2.0 * lower @ e @ lower.T for e in orthonormal.reshape(-1, 3, 3)])
    return Frame(rotation.nearest(A @ np.linalg.inv(lower.T)), metric, strains)


def matrix(frame: Frame, p) -> Array:
    """Return A (3, 3) for unknowns p = (rotation vector, strains[, ln η]); exact rotation, upper
    triangular B.
    """
    n = len(frame.strains)
    G = frame.metric + (frame.strains * p[3 : 3 + n, None, None]).sum(axis=0)
    B = _upper(G)
    return turn(p[:3]) @ (frame.U @ B)


def coordinates(frame: Frame, A: np.ndarray) -> np.ndarray:
    """Return (3 + cell parameters,) unknowns of which `matrix` makes A (3, 3), a lattice with the
    symmetry of the frame's.
    """
    inverse = np.linalg.inv(np.linalg.cholesky(frame.metric))
    basis = np.array([inverse @ m @ inverse.T for m in frame.strains]).reshape(
        len(frame.strains), 9
    )
    change = inverse @ (A.T @ A - frame.metric) @ inverse.T
    strains = np.linalg.lstsq(basis.T, change.reshape(9), rcond=None)[0]
    unturned = np.asarray(matrix(frame, np.concatenate([np.zeros(3), strains])))
    return np.concatenate([rotation.vector(rotation.nearest(A @ np.linalg.inv(unturned))), strains])


def _upper(G):
    """Return upper triangular B with BᵀB = G (3, 3), element by element."""
    b00 = jnp.sqrt(G[0, 0])
    b01 = G[0, 1] / b00
    b02 = G[0, 2] / b00
    b11 = jnp.sqrt(G[1, 1] - b01**2)
    b12 = (G[1, 2] - b01 * b02) / b11
    b22 = jnp.sqrt(G[2, 2] - b02**2 - b12**2)
    zero = jnp.zeros_like(b00)
    return jnp.stack(
        [jnp.stack([b00, b01, b02]), jnp.stack([zero, b11, b12]), jnp.stack([zero, zero, b22])]
    )


def turn(v):
    """Return rodrigues' rotation by the vector v (3,), smooth at 0."""
    t2 = (v * v).sum()
    small = t2 < 1e-8
    t = jnp.sqrt(jnp.where(small, 1.0, t2))
    a = jnp.where(small, 1.0 - t2 / 6.0, jnp.sin(t) / t)
    b = jnp.where(small, 0.5 - t2 / 24.0, (1.0 - jnp.cos(t)) / t**2)
    zero = jnp.zeros_like(t2)
    K = jnp.stack(
        [
            jnp.stack([zero, -v[2], v[1]]),
            jnp.stack([v[2], zero, -v[0]]),
            jnp.stack([-v[1], v[0], zero]),
        ]
    )
    return jnp.eye(3) + a * K + b * (K @ K)


def rays(frame: Frame, p, hkl, pulse: Pulse):
    """Return (n, 3) mean unit rays of nodes hkl (n, 3) for unknowns p."""
    sigma_q = prediction.size_sigma(pulse.domain_ang)
    return prediction.rays(
        hkl @ matrix(frame, p).T, jnp.exp(p[-1]), sigma_q, pulse.energies_ev, pulse.photons
    )


def _derivatives(frame: Frame, p, hkl, pulse: Pulse):
    """Return rays of nodes hkl (n, 3) and Δψ with their derivatives by the unknowns p (m,).

    Returns s1 (n, 3), ∂s1/∂p (n, 3, m), Δψ (n,), ∂Δψ/∂p (n, m). The spectrum is summed once per
    component of q and once for ln η, not once per unknown.
    """
    mean_energy = (pulse.energies_ev * pulse.photons).sum() / pulse.photons.sum()

    def spot(q, log_eta):
        sigma_q = prediction.size_sigma(pulse.domain_ang)
        s1 = prediction.rays(q, jnp.exp(log_eta), sigma_q, pulse.energies_ev, pulse.photons)
        return s1, prediction.delta_psi(q, mean_energy)

    q = hkl @ matrix(frame, p).T
    (s1, psi), tangent = jax.linearize(spot, q, p[-1])
    by_q = [tangent(jnp.zeros_like(q).at[:, i].set(1.0), 0.0) for i in range(3)]
    by_eta = tangent(jnp.zeros_like(q), 1.0)
    dA = jax.jacfwd(matrix, argnums=1)(frame, p)
    dq = jnp.einsum("ijm,nj->nim", dA, hkl)
    ds1 = (
        sum(by_q[i][0][:, :, None] * dq[:, None, i, :] for i in range(3))
        .at[:, :, -1]
        .add(by_eta[0])
    )
    dpsi = sum(by_q[i][1][:, None] * dq[:, i, :] for i in range(3))
    return s1, ds1, psi, dpsi


@jax.jit
def residuals(detector: Detector, frame: Frame, p, observed: Observed, pulse: Pulse):
    """Return observed minus predicted (spot, 2), px, radial and transverse; −∂/∂p (spot, 2, m); Δψ
    (spot,) and ∂Δψ/∂p.
    """
    s1, ds1, psi, dpsi = _derivatives(frame, p, observed.hkl, pulse)

    def place(ray):
        return jnp.stack(geometry.on_panel(detector, observed.panel, ray), axis=-1)

    position, tangent = jax.linearize(place, s1)
    by_s1 = [tangent(jnp.zeros_like(s1).at[:, i].set(1.0)) for i in range(3)]
    dposition = sum(by_s1[i][:, :, None] * ds1[:, None, i, :] for i in range(3))

    def turned(v):
        return (observed.axes[:, :, :, None] * v[:, None, :, :]).sum(axis=2)

    return turned((observed.position - position)[:, :, None])[:, :, 0], turned(dposition), psi, dpsi


class Fit(NamedTuple):
    """A point of the unknowns and the normal equations of all residuals there."""

    p: np.ndarray
    loss: float
    """negative log likelihood, restraints included"""
    hessian: np.ndarray
    gradient: np.ndarray
    """of the loss; (m,)"""
    residual: np.ndarray
    """(spot, 2) px, radial and transverse"""
    weight: np.ndarray
    """(spot,) Student-t weight, at most (ν + 2)/ν"""


class Restraint(NamedTuple):
    """Normal restraints: unknowns about a centre (precision 0 = free), and Δψ of the spots about
    0.
    """

    centre: np.ndarray
    precision: np.ndarray
    sigma_psi: np.ndarray
    """(spot,) rad; infinite = none"""


def student(z2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return loss and weight of two-dimensional residuals with squared length z2 in units of σ:
    Student t of `FREEDOM`.
    """
    return 0.5 * (FREEDOM + 2) * np.log1p(z2 / FREEDOM), (FREEDOM + 2) / (FREEDOM + z2)


def evaluate(
    detector: Detector, frame: Frame, p, observed: Observed, pulse: Pulse, restraint: Restraint
) -> Fit:
    """Return loss and its Gauss-Newton normal equations at p."""
    residual, jacobian, psi, dpsi = (
        np.asarray(x) for x in residuals(detector, frame, p, observed, pulse)
    )
    z2 = (residual**2 / observed.variance).sum(axis=1)
    loss, weight = student(z2)
    weight = weight * observed.valid
    scaled = jacobian * (weight[:, None] / observed.variance)[:, :, None]
    psi_weight = observed.valid / restraint.sigma_psi**2
    away = p - restraint.centre
    hessian = np.einsum("sam,san->mn", scaled, jacobian) + (dpsi * psi_weight[:, None]).T @ dpsi
    gradient = (
        -np.einsum("sam,sa->m", scaled, residual)
        + dpsi.T @ (psi_weight * psi)
        + restraint.precision * away
    )
    total = loss @ observed.valid + 0.5 * (psi_weight @ psi**2 + restraint.precision @ away**2)
    return Fit(p, float(total), hessian + np.diag(restraint.precision), gradient, residual, weight)


def fit(
    detector,
    frame,
    p,
    observed,
    pulse,
    restraint,
    n_iterations: int = 12,
    enough: float = FINE_GAIN,
) -> Fit:
    """Refine from p by Levenberg-Marquardt, until the loss falls by less than `enough`."""
    best = evaluate(detector, frame, p, observed, pulse, restraint)
    damping = 1e-3
    for _ in range(n_iterations):
        scale = 1.0 / np.sqrt(np.diag(best.hessian))
        scaled = best.hessian * np.outer(scale, scale) + damping * np.eye(len(scale))
        trial = best.p - scale * np.linalg.solve(scaled, scale * best.gradient)
        new = evaluate(detector, frame, trial, observed, pulse, restraint)
        gain = best.loss - new.loss
        if gain > 0:
            best = new
        if 0 <= gain < enough:
            break
        damping = damping * (0.1 if gain > 0 else 10.0)
        if damping > 1e3:
            break
    return best


def assign(
    A, eta_rad, spots: Spots, *, detector, pulse: Pulse, space_group: str, tolerance_px: float
):
    """Return Miller indices (spot, 3) int32 of the spots within tolerance_px of a predicted
    centroid; 0 0 0 = none.

    Along the radius the predicted width is added to the tolerance. Candidates are the nodes nearest
    to the spot at five energies of the pulse; each node takes its nearest spot only.
    """
    at = np.searchsorted(
        np.cumsum(pulse.photons) / pulse.photons.sum(), [0.02, 0.25, 0.5, 0.75, 0.98]
    )
    s1 = geometry.direction(detector, spots.panel, spots.fast, spots.slow)
    q = (
        (s1 - geometry.S0)
        / HC_EV_ANGSTROM
        * pulse.energies_ev[np.minimum(at, len(pulse.photons) - 1), None, None]
    )
    nodes = np.round(q @ np.linalg.inv(A).T).astype(np.int32)
    rows = np.broadcast_to(np.arange(len(s1))[:, None], (*nodes.shape[:2], 1))
    table = np.unique(np.concatenate([rows, nodes], axis=2).reshape(-1, 4), axis=0)
    table = table[
        table[:, 1:].any(axis=1) & ~symmetry.is_centring_absent(table[:, 1:], space_group)
    ]
    spot = table[:, 0]
    node = table[:, 1:]
    predicted = _centroids(A, eta_rad, node, pulse)
    panel = spots.panel[spot]
    fast = spots.fast[spot]
    slow = spots.slow[spot]
    at_fast, at_slow = geometry.on_panel(detector, panel, predicted.s1)
    per_rad, _ = prediction.pixels_per_rad(detector, predicted.s1, panel, at_fast, at_slow)
    away = np.stack([fast - at_fast, slow - at_slow], axis=1)
    away = np.einsum("sij,sj->si", geometry.radial_axes(detector, panel, fast, slow), away)
    distance = np.hypot(
        away[:, 0] / (1.0 + 2.33 * predicted.sigma_radial * per_rad / tolerance_px), away[:, 1]
    )
    near = np.flatnonzero((distance < tolerance_px) & (predicted.partiality > PARTIALITY_MIN))
    near = near[np.argsort(distance[near], kind="stable")]
    near = near[np.sort(np.unique(spot[near], return_index=True)[1])]
    near = near[np.unique(node[near], axis=0, return_index=True)[1]]
    hkl = np.zeros((len(s1), 3), dtype=np.int32)
    hkl[spot[near]] = node[near]
    return hkl


def _centroids(A, eta_rad, hkl, pulse: Pulse) -> prediction.Centroids:
    """Return `prediction.centroids` of any number of nodes, as NumPy."""
    padded = prediction.padded_rows(hkl)
    found = prediction.centroids(
        A, eta_rad, pulse.domain_ang, padded, pulse.energies_ev, pulse.photons
    )
    return prediction.Centroids(*(np.asarray(column)[: len(hkl)] for column in found))


def observe(
    A,
    eta_rad,
    hkl,
    spots: Spots,
    *,
    detector: Detector,
    pulse: Pulse,
    model_px: float,
    least: float = 0.0,
) -> Observed:
    """Return the indexed spots (hkl ≠ 0) as padded observations; their σ holds the centroid's and
    the model's error.

    Spots of partiality below `least` are there but not valid.
    """
    at = np.flatnonzero(hkl.any(axis=1))
    panel = spots.panel[at]
    fast = spots.fast[at]
    slow = spots.slow[at]
    predicted = _centroids(A, eta_rad, hkl[at], pulse)
    axes = geometry.radial_axes(detector, panel, fast, slow)
    width = np.stack([predicted.sigma_radial, predicted.sigma_transverse], axis=1)
    there = geometry.on_panel(detector, panel, predicted.s1)
    width = width * np.stack(
        prediction.pixels_per_rad(detector, predicted.s1, panel, *there), axis=1
    )
    lumps = MODEL_WIDTH**2 / np.maximum(predicted.partiality, 0.01)
    measured = (
        axes**2 * np.stack([spots.variance_fast, spots.variance_slow], axis=1)[at][:, None, :]
    ).sum(axis=2)
    rows = prediction.padded_rows
    return Observed(
        rows(hkl[at]),
        rows(panel, 0).astype(np.int32),
        rows(np.stack([fast, slow], axis=1)),
        rows(axes),
        rows(measured + model_px**2 + width**2 * lumps[:, None]),
        rows(predicted.partiality >= least, 0) > 0,
    )


def sigma_psi(A, eta_rad, hkl, pulse: Pulse) -> np.ndarray:
    """Return (n,) rad: spread of Δψ among the reflections a pulse shows, by rotation and size of
    domains and by bandwidth.
    """
    share = pulse.photons / pulse.photons.sum()
    mean = share @ pulse.energies_ev
    width = np.sqrt(share @ (pulse.energies_ev - mean) ** 2) / mean
    g = np.linalg.norm(hkl @ A.T, axis=1)
    sine = np.clip(0.5 * g * HC_EV_ANGSTROM / mean, 0.0, 0.99)
    cosine = np.sqrt(1.0 - sine**2)
    size = prediction.size_sigma(pulse.domain_ang) / (g * cosine)
    return np.sqrt(eta_rad**2 / 3 + size**2 + (width * sine / cosine) ** 2)


def prior(frame: Frame, ln_eta: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and precision (m,) of the unknowns: rotation and cell weakly about their start,
    ln η about `ln_eta`.
    """
    centre, precision = np.zeros((2, 4 + len(frame.strains)))
    precision[:3] = ROTATION_SIGMA**-2
    precision[3:-1] = STRAIN_SIGMA**-2
    centre[-1], precision[-1] = ln_eta, sigma**-2
    return centre, precision


class _Round(NamedTuple):
    A: np.ndarray
    eta_rad: float
    z2: np.ndarray
    """(indexed spot,) squared distance from the prediction in units of σ²"""


def _round(
    A,
    eta_rad,
    hkl,
    spots,
    *,
    detector,
    pulse,
    space_group,
    model_px,
    inflate,
    ln_eta,
    psi,
    enough,
    hold=False,
) -> _Round:
    """Fit the indexed spots. ln_eta: (centre, σ) of its prior; psi: restrain Δψ, as a wrong
    orientation needs it; enough: gain of the log likelihood below which the fit ends; hold: nothing
    but η moves.
    """
    start = frame(A, space_group)
    observed = observe(A, eta_rad, hkl, spots, detector=detector, pulse=pulse, model_px=model_px)
    observed = observed._replace(variance=observed.variance * inflate)
    p = np.zeros(4 + len(start.strains))
    p[-1] = np.log(eta_rad)
    spread = (
        sigma_psi(A, ETA_PRIOR_RAD, observed.hkl, pulse)
        if psi
        else np.full(len(observed.hkl), np.inf)
    )
    centre, precision = prior(start, *ln_eta)
    precision[:-1] = HELD if hold else precision[:-1]
    found = fit(
        detector, start, p, observed, pulse, Restraint(centre, precision, spread), enough=enough
    )
    z2 = (found.residual**2 / observed.variance).sum(axis=1)[observed.valid]
    return _Round(np.asarray(matrix(start, found.p)), float(np.exp(found.p[-1])), z2)


def offsets(A, eta_rad, hkl, spots: Spots, *, detector: Detector, pulse: Pulse) -> np.ndarray:
    """Return (indexed spot, 2) observed minus predicted, px, radial and transverse."""
    observed = observe(A, eta_rad, hkl, spots, detector=detector, pulse=pulse, model_px=MODEL_PX)
    predicted = _centroids(A, eta_rad, observed.hkl[observed.valid], pulse)
    position = np.stack(
        geometry.on_panel(detector, observed.panel[observed.valid], predicted.s1), axis=1
    )
    return np.einsum(
        "sij,sj->si", observed.axes[observed.valid], observed.position[observed.valid] - position
    )


def refine(
    A: np.ndarray,
    hkl: np.ndarray,
    spots: Spots,
    *,
    detector: Detector,
    spectrum: Spectrum,
    space_group: str,
    domain_ang: float,
    eta_rad: float | None = None,
    tolerance_px: float = 3.0,
    min_indexed: int = 8,
    hold: bool = False,
) -> Lattice | None:
    """Refine orientation, cell and (where eta_rad is None) mosaic spread of one lattice, indexing
    its spots anew.

    A: (3, 3) right to about 0.5°; hkl: (spot, 3) int, 0 0 0 = not of this lattice. Spots further
    than `tolerance_px` from their prediction leave, spots nearer join. Returns None when fewer than
    `min_indexed` are left. The r.m.s.d. is over the spots with I/σ ≥ 5 indexed before the mosaic
    spread is refined, outliers among them included. hold: A stays, but for the symmetry of its
    cell.
    """
    live = prediction.compress(spectrum)
    pulse = Pulse(live.energies_ev, live.photons, float(domain_ang))
    where: dict[str, Any] = {"detector": detector, "pulse": pulse, "space_group": space_group}
    eta = ETA_PRIOR_RAD if eta_rad is None else eta_rad
    ln_eta = (np.log(eta), ETA_PRIOR_LOG if eta_rad is None else 1e-6)
    if (hkl != 0).any(axis=1).sum() < min_indexed:
        return None
    coarse = {
        "model_px": 0.5,
        "inflate": 1.0,
        "ln_eta": (np.log(COARSE_ETA_RAD), 1e-6),
        "psi": True,
        "enough": ROUGH_GAIN,
    }
    if not hold:
        A = _round(A, COARSE_ETA_RAD, hkl, spots, **coarse, **where).A
    listed, inflate = hkl, 1.0
    for again in (False, True):
        hkl = assign(A, eta, spots, tolerance_px=tolerance_px, **where)
        listed = listed if again else hkl
        if (hkl != 0).any(axis=1).sum() < min_indexed:
            return None
        fine = {
            "model_px": MODEL_PX,
            "inflate": inflate,
            "ln_eta": ln_eta,
            "psi": False,
            "hold": hold,
        }
        A, eta, z2 = _round(
            A, eta, hkl, spots, **fine, enough=FINE_GAIN if again else ROUGH_GAIN, **where
        )
        worse = float(np.median(z2)) / (2 * np.log(2)) if len(z2) else 1.0
        outlier = z2 > 16.0
        inflate = inflate * max(1.0, worse)
    used = np.zeros(len(hkl), dtype=bool)
    used[(hkl != 0).any(axis=1)] = ~outlier
    listed = np.where((spots.intensity >= I_OVER_SIGMA * spots.sigma)[:, None], listed, 0)
    away = offsets(A, eta, listed, spots, detector=detector, pulse=pulse) * float(detector.pixel_mm)
    radial, transverse = np.sqrt((away**2).mean(axis=0)) if len(away) else (np.nan, np.nan)
    cell = unit_cell.cell_of(A)
    return Lattice(
        A, cell, eta, float(domain_ang), hkl, used, float(radial), float(transverse), len(away)
    )

"""The fit of one lattice to the centroids of its spots, observed − predicted.

Unknowns p of a lattice: rotation vector (3, rad) and strains (1-6) as in `orientation_matrix`,
ln η. A fit has one more, the logarithm of the domains' edge, and, where the header may be wrong,
the shift of the detector (2, mm) after it. Residuals are in px, radial and transverse, each over
its σ. Level 0 refines the detector with the same residuals.
"""

import math
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.least_squares import Damping, Limits, Unsolvable, levenberg_marquardt
from spreadflow.analysis.orientation_matrix import CrystalFrame, linearized, matrix
from spreadflow.analysis.still import cloud_loops, prediction
from spreadflow.analysis.still.prediction import MosaicLattice
from spreadflow.models import Array, Detector, Spectrum, Spots
from spreadflow.physics import geometry
from spreadflow.units import HC_EV_ANGSTROM

ROTATION_SIGMA = 0.02
"""Rad; standard deviation of the very weak restraint on the rotation, which a lattice without spots
needs.
"""

STRAIN_SIGMA = 0.01
"""Standard deviation of the weak restraint on the cell, relative to the cell at the start."""

FREEDOM = 4.0
"""Degrees of freedom of the Student t that weights residuals (Lange, Little & Taylor 1989)."""

MODEL_PX = 0.05
"""Px; error of a predicted centroid that nothing explains."""

MODEL_WIDTH = 0.12
"""Error of a predicted centroid relative to the spot's width / √partiality: few domains share a
weakly excited spot.
"""

LEAST_PARTIALITY = 0.01
"""Partiality below which the error of a predicted centroid no longer grows."""

DAMPING = Damping(first=1e-3, least=0.0, least_after_rise=0.0, largest=1e3)
"""How steps are damped."""


class Observed(NamedTuple):
    """Indexed spots."""

    hkl: Array
    """(spot, 3)"""
    panel: Array
    """(spot,) int32"""
    position: Array
    """(spot, 2) fast, slow, px"""
    axes: Array
    """(spot, 2, 2) radial and transverse unit vectors"""
    variance: Array
    """(spot, 2) of the centroid, observed and predicted, radial and transverse, px²"""
    valid: Array
    """(spot,) bool, counts"""


class CentroidModel(NamedTuple):
    """The model of the centroids of a lattice's spots, without its unknowns and the detector."""

    frame: CrystalFrame
    spectrum: Spectrum
    """compressed, as by `prediction.compress`"""
    domain_ang: Array | float
    """() edge of a mosaic domain, Å"""

    @property
    def n_unknowns(self) -> int:
        """Unknowns of the lattice, without the edge of its domains."""
        return 4 + len(self.frame.strains)

    def lattice(self, p: np.ndarray) -> MosaicLattice:
        """Return the lattice that has the unknowns p, of itself or of a fit."""
        A = np.asarray(matrix(self.frame, p))
        eta_rad = float(np.exp(p[self.n_unknowns - 1]))
        domain_ang = self.domain_ang
        if len(p) > self.n_unknowns:
            domain_ang = float(np.exp(p[self.n_unknowns]))
        return MosaicLattice(A, eta_rad, domain_ang)

    def start(self, eta_rad: float) -> np.ndarray:
        """Return the unknowns of the frame's own lattice with a mosaic spread."""
        p = np.zeros(self.n_unknowns)
        p[-1] = np.log(eta_rad)
        return p


class Residuals(NamedTuple):
    """Residuals of spots, and their derivatives by the m unknowns of the lattice."""

    offset: Array
    """(spot, 2) observed minus predicted centroid, px, radial and transverse"""
    offset_by_p: Array
    """(spot, 2, m) minus the derivative of the offset"""
    offset_by_domain: Array
    """(spot, 2) minus the derivative of the offset by the logarithm of the domains' edge"""
    delta_psi: Array
    """(spot,) rotation from the Ewald sphere of the mean energy, rad"""
    delta_psi_by_p: Array
    """(spot, m)"""
    s1: Array
    """(spot, 3) predicted mean unit rays"""


class Restraint(NamedTuple):
    """Normal restraints: unknowns about a centre, and Δψ of the spots about 0."""

    centre: np.ndarray
    """(m,)"""
    precision: np.ndarray
    """(m,) 1/σ²; 0 = free"""
    sigma_psi: np.ndarray
    """(spot,) rad; infinite = none"""


class Point(NamedTuple):
    """A point of the unknowns and the normal equations of all residuals there."""

    p: np.ndarray
    """(m,)"""
    loss: float
    """negative log likelihood, restraints included"""
    hessian: np.ndarray
    """(m, m) of the loss, by Gauss and Newton"""
    gradient: np.ndarray
    """(m,) of the loss"""
    offset: np.ndarray
    """(spot, 2) as in `Residuals`"""
    nuisance_gain: float = 0.0
    """there are no nuisances"""


# ---------------------------------------------------------------- residuals


def residuals(
    detector: Detector, model: CentroidModel, p: np.ndarray, observed: Observed
) -> Residuals:
    """Return the residuals of indexed spots for unknowns p (m,)."""
    A, A_by_p = linearized(model.frame, p)
    q = observed.hkl @ A.T
    x, y, axis = prediction.in_plane(q)
    sigma_q = float(prediction.size_sigma(model.domain_ang))
    pulse = prediction.pulse_of(model.spectrum)
    cloud = cloud_loops.slopes(x, y, math.exp(p[-1]), sigma_q, pulse)
    s1 = prediction.unit_ray(cloud.along, cloud.across, axis)

    # how the ray turns in its plane: by x, y, ln η and ln σ_q
    square = cloud.along**2 + cloud.across**2
    turned = cloud.along[:, None] * cloud.across_by - cloud.across[:, None] * cloud.along_by
    turned /= square[:, None]
    position, by_turn, by_azimuth = _on_panel(detector, observed, s1, axis)

    # q moves along x and y of its plane, and across it; the last unknown is ln η
    q_by_p = (observed.hkl @ np.swapaxes(A_by_p, 1, 2)).T
    x_by_p = -q_by_p[2]
    y_by_p = axis[:, 0, None] * q_by_p[0] + axis[:, 1, None] * q_by_p[1]
    azimuth_by_p = (axis[:, 0, None] * q_by_p[1] - axis[:, 1, None] * q_by_p[0]) / y[:, None]
    turn_by_p = turned[:, :1] * x_by_p + turned[:, 1:2] * y_by_p
    energy_ev = float(model.spectrum.mean_energy_ev)
    by_p = np.empty((len(y), 2, len(p)))
    by_p[:, :, :-1] = by_turn[:, :, None] * turn_by_p[:, None]
    by_p[:, :, :-1] += by_azimuth[:, :, None] * azimuth_by_p[:, None]
    by_p[:, :, -1] = by_turn * turned[:, 2:3]
    psi_by_p = np.zeros((len(y), len(p)))
    psi_by_p[:, :-1] = _delta_psi_by_p(x, y, x_by_p, y_by_p, energy_ev)
    return Residuals(
        offset=_on_axes(observed.axes, observed.position - position),
        offset_by_p=by_p,
        offset_by_domain=-by_turn * turned[:, 3:4],
        delta_psi=prediction.delta_psi(q, energy_ev),
        delta_psi_by_p=psi_by_p,
        s1=s1,
    )


def _on_axes(axes: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the radial and transverse components of v (..., n, 2) px along axes (n, 2, 2)."""
    return axes[:, :, 0] * v[..., :1] + axes[:, :, 1] * v[..., 1:]


def _on_panel(
    detector: Detector, observed: Observed, s1: np.ndarray, axis: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where rays s1 (n, 3) in planes along the beam and `axis` (n, 2) are recorded (n, 2),
    px, and how that moves, px/rad, radial and transverse (n, 2), as the ray turns in its plane,
    and as the plane turns about the beam.
    """
    turns = np.zeros((2, len(s1), 3))
    turns[0, :, :2] = -axis * s1[:, 2:]
    turns[0, :, 2] = axis[:, 0] * s1[:, 0] + axis[:, 1] * s1[:, 1]
    turns[1, :, 0] = -s1[:, 1]
    turns[1, :, 1] = s1[:, 0]
    position, moves = geometry.on_panel_moved(detector, observed.panel, s1, turns)
    by_turn, by_azimuth = _on_axes(observed.axes, moves)
    return position, by_turn, by_azimuth


def _delta_psi_by_p(
    x: np.ndarray, y: np.ndarray, x_by_p: np.ndarray, y_by_p: np.ndarray, energy_ev: float
) -> np.ndarray:
    """Return the derivatives (n, m) of `prediction.delta_psi` by unknowns that nodes at x, y (n,)
    follow with x_by_p and y_by_p (n, m).
    """
    g2 = x**2 + y**2
    half = 0.5 * HC_EV_ANGSTROM / energy_ev
    cosine = np.sqrt(np.maximum(1.0 - half**2 * g2, 0.0))
    of_sphere = half / np.maximum(np.sqrt(g2) * cosine, 1e-12)
    by_x = -y / g2 - of_sphere * x
    by_y = x / g2 - of_sphere * y
    return by_x[:, None] * x_by_p + by_y[:, None] * y_by_p


# ---------------------------------------------------------------- fit


def student(z2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return loss and weight of two-dimensional residuals whose squared length is z2 (n,), in units
    of σ²: those of Student's t with `FREEDOM` degrees of freedom.
    """
    loss = 0.5 * (FREEDOM + 2) * np.log1p(z2 / FREEDOM)
    weight = (FREEDOM + 2) / (FREEDOM + z2)
    return loss, weight


def position_by_shift(detector: Detector, observed: Observed) -> np.ndarray:
    """Return how far predicted centroids move, px/mm, radial and transverse, when the detector is
    shifted along panel 0's fast and slow axes: (spot, 2, 2), the last axis that of the shift.
    """
    panel = np.asarray(observed.panel)
    axes_of_panel = np.stack([detector.fast[panel], detector.slow[panel]], axis=1)
    axes_of_shift = np.stack([detector.fast[0], detector.slow[0]], axis=1)
    on_panel = axes_of_panel @ axes_of_shift / float(detector.pixel_mm)
    return -np.asarray(observed.axes) @ on_panel


def bend(z2: np.ndarray) -> np.ndarray:
    """Return by how much the curvature of `student`'s loss, summed over both directions in units of
    σ, falls short of twice the weight: (n,).
    """
    return 2.0 * (FREEDOM + 2) * z2 / (FREEDOM + z2) ** 2


def evaluate(
    detector: Detector, model: CentroidModel, p, observed: Observed, restraint: Restraint
) -> Point:
    """Return the loss and its Gauss-Newton normal equations at the unknowns p of a fit."""
    own, (ln_domain,), shift = np.split(p, [model.n_unknowns, model.n_unknowns + 1])
    of_domain = model._replace(domain_ang=float(np.exp(ln_domain)))
    terms = residuals(detector, of_domain, own, observed)
    offset, by_own, by_domain, psi, psi_by_own = terms[:5]
    jacobians = [by_own, by_domain[:, :, None]]
    if len(shift):
        by_shift = position_by_shift(detector, observed)
        offset = offset - by_shift @ shift
        jacobians.append(by_shift)
    jacobian = np.concatenate(jacobians, axis=2)
    z2 = (offset**2 / observed.variance).sum(axis=1)
    loss, weight = student(z2)
    weight = weight * observed.valid

    scaled = jacobian * (weight[:, None] / observed.variance)[:, :, None]
    m = len(own)
    psi_weight = observed.valid / restraint.sigma_psi**2
    distance = p - restraint.centre

    flat = scaled.reshape(-1, len(p)).T
    hessian = flat @ jacobian.reshape(-1, len(p)) + np.diag(restraint.precision)
    hessian[:m, :m] += (psi_by_own * psi_weight[:, None]).T @ psi_by_own

    gradient = restraint.precision * distance - flat @ offset.ravel()
    gradient[:m] += psi_by_own.T @ (psi_weight * psi)

    restrained = psi_weight @ psi**2 + restraint.precision @ distance**2
    total = loss @ observed.valid + 0.5 * restrained
    return Point(p=p, loss=float(total), hessian=hessian, gradient=gradient, offset=offset)


def fit(
    detector: Detector,
    model: CentroidModel,
    p: np.ndarray,
    observed: Observed,
    restraint: Restraint,
    *,
    least_gain: float,
    n_iterations: int = 12,
) -> Point:
    """Return where a fit from p ends: when the loss falls by less than `least_gain`, or after
    `n_iterations` steps. A lattice whose equations have no solution stays where it is.
    """

    def moved(point: Point, step: np.ndarray, _: float) -> Point:
        return evaluate(detector, model, point.p + step, observed, restraint)

    limits = Limits(n_evaluations=1 + n_iterations, smallest_fall=least_gain)
    start = evaluate(detector, model, p, observed, restraint)
    try:
        return levenberg_marquardt(start, moved, DAMPING, limits).point
    except Unsolvable:
        return start


# ---------------------------------------------------------------- observations and restraints


def observe(
    lattice: MosaicLattice,
    hkl: np.ndarray,
    spots: Spots,
    spectrum: Spectrum,
    detector: Detector,
    *,
    model_px: float = MODEL_PX,
    partiality_min: float = 0.0,
) -> Observed:
    """Return the indexed spots (hkl ≠ 0) as observations; their variances hold the errors of the
    centroid and of the model.

    hkl: (spot, 3). spectrum: compressed. model_px: error of a predicted centroid that nothing
    explains. Spots recorded to less than partiality_min are there, but not valid.
    """
    rows = np.flatnonzero(hkl.any(axis=1))
    hkl = hkl[rows]
    panel = spots.panel[rows]
    fast = spots.fast[rows]
    slow = spots.slow[rows]
    axes = geometry.radial_axes(detector, panel, fast, slow)

    predicted = prediction.centroids_of(lattice, hkl, spectrum)
    there = geometry.on_panel(detector, panel, predicted.s1)
    px_per_rad = prediction.pixels_per_rad(detector, predicted.s1, panel, *there)
    width = np.stack([predicted.sigma_radial, predicted.sigma_transverse], axis=1)
    width = width * np.stack(px_per_rad, axis=1)

    observed = np.stack([spots.variance_fast, spots.variance_slow], axis=1)[rows]
    centroid_variance = (axes**2 * observed[:, None, :]).sum(axis=2)
    relative = MODEL_WIDTH**2 / np.maximum(predicted.partiality, LEAST_PARTIALITY)
    variance = centroid_variance + model_px**2 + width**2 * relative[:, None]

    return Observed(
        hkl=hkl.astype(np.float64),
        panel=np.asarray(panel, dtype=np.int32),
        position=np.stack([fast, slow], axis=1).astype(np.float64),
        axes=axes,
        variance=variance,
        valid=predicted.partiality >= partiality_min,
    )


def offsets(
    lattice: MosaicLattice,
    hkl: np.ndarray,
    spots: Spots,
    spectrum: Spectrum,
    detector: Detector,
) -> np.ndarray:
    """Return observed minus predicted centroids of the indexed spots (hkl ≠ 0), px, radial and
    transverse: (indexed spot, 2).
    """
    observed = observe(lattice, hkl, spots, spectrum, detector)
    is_valid = observed.valid
    predicted = prediction.centroids_of(lattice, observed.hkl[is_valid], spectrum)
    to_panel = geometry.on_panel(detector, observed.panel[is_valid], predicted.s1)
    difference = observed.position[is_valid] - np.stack(to_panel, axis=1)
    return np.einsum("sij,sj->si", observed.axes[is_valid], difference)


def sigma_psi(lattice: MosaicLattice, hkl: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Return the standard deviation of Δψ, rad, among the reflections (n, 3) that a pulse shows, by
    rotation and size of domains and by bandwidth: (n,).
    """
    share = spectrum.photons / spectrum.photons.sum()
    mean = share @ spectrum.energies_ev
    deviation = spectrum.energies_ev - mean
    bandwidth = np.sqrt(share @ deviation**2) / mean

    g = np.linalg.norm(hkl @ lattice.A.T, axis=1)
    sine = np.clip(0.5 * g * HC_EV_ANGSTROM / mean, 0.0, 0.99)
    cosine = np.sqrt(1.0 - sine**2)

    of_rotation = lattice.eta_rad**2 / 3
    of_size = prediction.size_sigma(lattice.domain_ang) / (g * cosine)
    of_energy = bandwidth * sine / cosine
    return np.sqrt(of_rotation + of_size**2 + of_energy**2)


def prior(frame: CrystalFrame, ln_eta: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and precision (m,) of the unknowns: rotation and cell weakly about the frame,
    ln η about `ln_eta` with a standard deviation.
    """
    n_unknowns = 4 + len(frame.strains)
    centre, precision = np.zeros((2, n_unknowns))
    precision[:3] = ROTATION_SIGMA**-2
    precision[3:-1] = STRAIN_SIGMA**-2

    centre[-1] = ln_eta
    precision[-1] = sigma**-2
    return centre, precision

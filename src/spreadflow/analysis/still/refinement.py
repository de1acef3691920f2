"""Refinement of one lattice of a still by polychromatic centroids: orientation, symmetry-reduced
cell, mosaic spread; and, while only the header says where the detector is, a shift of it.

A coarse round finds the orientation from the spots as indexed. Then spots are indexed anew from
where they are predicted, and the lattice is fitted, twice (`centroid_fit`).
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.orientation_matrix import CrystalFrame, crystal_frame
from spreadflow.analysis.still import centroid_fit, prediction
from spreadflow.analysis.still.centroid_fit import MODEL_PX, CentroidModel, Restraint
from spreadflow.analysis.still.prediction import MosaicLattice
from spreadflow.analysis.strength import STRONG_SPOT
from spreadflow.models import Detector, Lattice, Spectrum, Spots
from spreadflow.physics import geometry, symmetry, unit_cell
from spreadflow.units import HC_EV_ANGSTROM

ETA_PRIOR_RAD = 8.7e-4
"""A mosaic spread typical of crystals at an XFEL (0.05°)."""

ETA_PRIOR_LOG = 1.0
"""Standard deviation of the prior of ln η."""

HELD_LOG = 1e-6
"""Standard deviation of the logarithm of what is not refined."""

DOMAIN_PRIOR_LOG = 0.5
"""Standard deviation of the prior of the logarithm of the domains' edge."""

DOMAIN_FACTOR = 2.5
"""Where the spots say that the domains are larger or smaller than assumed by more than this, the
lattice has its own. Few domains make a lattice, whose spots know their size to a third, a third too
small: within the factor, what is assumed for all lattices is right more often, and merged
intensities are better.
"""

COARSE_ETA_RAD = 5e-3
"""Mosaic spread of the first round, in which the orientation may be wrong by tenths of a degree."""

COARSE_MODEL_PX = 0.5
"""Px; error of predicted centroids in the first round."""

HELD = 1e24
"""Precision of unknowns that shall not move."""

QUANTILES = (0.02, 0.25, 0.5, 0.75, 0.98)
"""Quantiles of the pulse's photons; the nodes nearest to a spot at their energies are its
candidates.
"""

PARTIALITY_MIN = 1e-5
"""Nodes excited less than this are not assigned to a spot."""

ROUGH_GAIN = 0.1
"""Gain of the log likelihood below which a fit ends whose spots are assigned anew after it."""

FINE_GAIN = 1e-3
"""Gain of the log likelihood below which the last fit ends."""

MEDIAN_Z2 = 2 * np.log(2)
"""Median of the squared length of two-dimensional residuals in units of σ², were these right."""

OUTLIER_Z2 = 16.0
"""Spots further than four standard deviations from their prediction do not count as used."""


class Settings(NamedTuple):
    """How the lattices of a run are refined."""

    space_group: str
    domain_ang: float
    """edge of a mosaic domain, Å: a lattice has it unless its spots say otherwise"""
    eta_rad: float | None = None
    """mosaic spread; None = refined"""
    tolerance_px: float = 3.0
    """spots further than this from their prediction leave a lattice, spots nearer join it"""
    min_indexed: int = 8
    """spots of a lattice"""
    shift_sigma_mm: float = 0.0
    """how far the header's detector may be off, along each edge (a standard deviation); 0 = it is
    where it is said to be, and nothing is shifted
    """


class _Placed(NamedTuple):
    """A lattice and where the detector is for it."""

    lattice: MosaicLattice
    shift_mm: np.ndarray
    """(2,) of the detector from where it is said to be, along its fast and slow axes"""


def refine(
    A: np.ndarray,
    hkl: np.ndarray,
    spots: Spots,
    spectrum: Spectrum,
    detector: Detector,
    settings: Settings,
) -> Lattice | None:
    """Return one lattice with orientation, cell and, where it is not set, mosaic spread refined,
    its spots indexed anew.

    A: (3, 3) right to about 0.5°; hkl: (spot, 3) int, 0 0 0 = not of this lattice. Returns None
    when fewer than `min_indexed` spots are left. The r.m.s.d. is over the spots with I/σ ≥ 5 that
    are indexed before the mosaic spread is refined, outliers among them included.
    """
    if _n_indexed(hkl) < settings.min_indexed:
        return None
    spectrum = prediction.compress(spectrum)
    lattice = MosaicLattice(A, COARSE_ETA_RAD, float(settings.domain_ang))
    start = _Placed(lattice, np.zeros(2))
    coarse = _RoundSettings(
        model_px=COARSE_MODEL_PX,
        variance_factor=1.0,
        eta_rad=COARSE_ETA_RAD,
        ln_eta_sigma=HELD_LOG,
        domain_ang=settings.domain_ang,
        ln_domain_sigma=HELD_LOG,
        restrains_psi=True,
        least_gain=ROUGH_GAIN,
        shift_sigma_mm=settings.shift_sigma_mm,
    )
    oriented, _ = _fit_round(start, hkl, spots, spectrum, detector, settings.space_group, coarse)
    return _refine_twice(oriented, spots, spectrum, detector, settings)


def hold(
    A: np.ndarray, spots: Spots, spectrum: Spectrum, detector: Detector, settings: Settings
) -> Lattice:
    """Return one lattice with its spots indexed, however few; A (3, 3) stays, but for the symmetry
    of its cell.
    """
    spectrum = prediction.compress(spectrum)
    without_limit = settings._replace(min_indexed=0)
    start = _Placed(MosaicLattice(A, ETA_PRIOR_RAD, float(settings.domain_ang)), np.zeros(2))
    lattice = _refine_twice(start, spots, spectrum, detector, without_limit, holds_A=True)
    assert lattice is not None  # no spots are needed
    return lattice


def _refine_twice(
    start: _Placed,
    spots: Spots,
    spectrum: Spectrum,
    detector: Detector,
    settings: Settings,
    holds_A: bool = False,
) -> Lattice | None:
    """Return the lattice after two rounds in which spots are indexed and the lattice is fitted."""
    fine = _fine(settings, holds_A)
    placed = start._replace(lattice=start.lattice._replace(eta_rad=fine.eta_rad))
    space_group = settings.space_group
    assigned = []
    for least_gain in (ROUGH_GAIN, FINE_GAIN):
        hkl = assign(
            placed.lattice,
            spots,
            spectrum,
            moved(detector, placed.shift_mm),
            space_group=space_group,
            tolerance_px=settings.tolerance_px,
        )
        assigned.append(hkl)
        if _n_indexed(hkl) < settings.min_indexed:
            return None
        fine = fine._replace(least_gain=least_gain)
        placed, z2 = _fit_round(placed, hkl, spots, spectrum, detector, space_group, fine)
        if least_gain == ROUGH_GAIN:
            estimated_ang = placed.lattice.domain_ang
            domain_ang = _domain(estimated_ang, settings.domain_ang)
            placed = placed._replace(lattice=placed.lattice._replace(domain_ang=domain_ang))
            fine = fine._replace(domain_ang=domain_ang, ln_domain_sigma=HELD_LOG)
        too_large = float(np.median(z2)) / MEDIAN_Z2 if len(z2) else 1.0
        fine = fine._replace(variance_factor=fine.variance_factor * max(1.0, too_large))

    used = np.zeros(len(hkl), dtype=bool)
    used[hkl.any(axis=1)] = ~(z2 > OUTLIER_Z2)
    strong = of_strong_spots(assigned[0], spots)
    lattice = placed.lattice._replace(domain_ang=domain_ang)
    there = moved(detector, placed.shift_mm)
    offsets_mm = centroid_fit.offsets(lattice, strong, spots, spectrum, there)
    offsets_mm = offsets_mm * float(detector.pixel_mm)
    rmsd = np.sqrt((offsets_mm**2).mean(axis=0)) if len(offsets_mm) else (np.nan, np.nan)
    return Lattice(
        A=lattice.A,
        cell=unit_cell.cell_of(lattice.A),
        eta_rad=lattice.eta_rad,
        domain_ang=lattice.domain_ang,
        hkl=hkl,
        used=used,
        rmsd_radial_mm=float(rmsd[0]),
        rmsd_transverse_mm=float(rmsd[1]),
        n_rmsd=len(offsets_mm),
        shift_mm=placed.shift_mm,
        domain_estimated_ang=estimated_ang,
    )


def _fine(settings: Settings, holds_A: bool) -> "_RoundSettings":
    """Return how lattices are fitted once their orientation is right."""
    eta_rad = ETA_PRIOR_RAD if settings.eta_rad is None else settings.eta_rad
    return _RoundSettings(
        model_px=MODEL_PX,
        variance_factor=1.0,
        eta_rad=eta_rad,
        ln_eta_sigma=ETA_PRIOR_LOG if settings.eta_rad is None else HELD_LOG,
        domain_ang=settings.domain_ang,
        ln_domain_sigma=DOMAIN_PRIOR_LOG,
        holds_A=holds_A,
        shift_sigma_mm=settings.shift_sigma_mm,
    )


def _domain(estimated_ang: float, assumed_ang: float) -> float:
    """Return the edge of the domains of a lattice, Å."""
    is_contradicted = abs(np.log(estimated_ang / assumed_ang)) > np.log(DOMAIN_FACTOR)
    return estimated_ang if is_contradicted else assumed_ang


def moved(detector: Detector, shift_mm: np.ndarray) -> Detector:
    """Return the detector moved along its fast and slow axes by shift_mm (2,)."""
    fast_mm, slow_mm = shift_mm
    return geometry.shifted(detector, fast_mm, slow_mm, 0.0)


def _n_indexed(hkl: np.ndarray) -> int:
    """Return how many spots have an index other than 0 0 0."""
    return int(hkl.any(axis=1).sum())


def of_strong_spots(hkl: np.ndarray, spots: Spots) -> np.ndarray:
    """Return indices (spot, 3) of the spots that count in the r.m.s.d.; 0 0 0 for the others."""
    is_strong = spots.intensity >= STRONG_SPOT * spots.sigma
    return np.where(is_strong[:, None], hkl, 0)


# ---------------------------------------------------------------- rounds


class _RoundSettings(NamedTuple):
    """How residuals are weighted, and what is restrained, in one round."""

    model_px: float
    """error of predicted centroids that nothing explains, px"""
    variance_factor: float
    """by which variances were too small in the round before"""
    eta_rad: float
    """centre of the prior of ln η is its logarithm"""
    ln_eta_sigma: float
    """standard deviation of that prior"""
    domain_ang: float
    """centre of the prior of the domains' edge, Å, is its logarithm"""
    ln_domain_sigma: float
    """standard deviation of the prior of the logarithm of the domains' edge"""
    restrains_psi: bool = False
    """Δψ is restrained, as a wrong orientation needs it"""
    holds_A: bool = False
    """nothing but η and the domains' edge moves"""
    least_gain: float = ROUGH_GAIN
    """gain of the log likelihood below which the fit ends"""
    shift_sigma_mm: float = 0.0
    """standard deviation of the shift of the detector, in each direction; 0 = it stays"""


def _fit_round(
    placed: _Placed,
    hkl: np.ndarray,
    spots: Spots,
    spectrum: Spectrum,
    detector: Detector,
    space_group: str,
    settings: _RoundSettings,
) -> tuple[_Placed, np.ndarray]:
    """Return the lattice, and where the detector is, fitted to its indexed spots, and their squared
    distances from their predictions in units of σ²: (indexed spot,).
    """
    lattice = placed.lattice
    there = moved(detector, placed.shift_mm)
    frame = crystal_frame(lattice.A, space_group)
    model = CentroidModel(frame, spectrum, lattice.domain_ang)
    observed = centroid_fit.observe(
        lattice, hkl, spots, spectrum, there, model_px=settings.model_px
    )
    observed = observed._replace(variance=observed.variance * settings.variance_factor)

    sigma_psi = np.full(len(observed.hkl), np.inf)
    if settings.restrains_psi:
        typical = lattice._replace(eta_rad=ETA_PRIOR_RAD)
        sigma_psi = centroid_fit.sigma_psi(typical, observed.hkl, spectrum)
    start = np.append(model.start(lattice.eta_rad), np.log(lattice.domain_ang))
    centre, precision = _prior(placed, frame, settings)
    if settings.shift_sigma_mm > 0:
        start = np.append(start, np.zeros(2))

    found = centroid_fit.fit(
        there,
        model,
        start,
        observed,
        Restraint(centre, precision, sigma_psi),
        least_gain=settings.least_gain,
    )
    z2 = (found.offset**2 / observed.variance).sum(axis=1)
    shift_mm = placed.shift_mm
    if settings.shift_sigma_mm > 0:
        shift_mm = shift_mm + found.p[-2:]
    return _Placed(model.lattice(found.p), shift_mm), z2[observed.valid]


def _prior(
    placed: _Placed, frame: CrystalFrame, settings: _RoundSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and precision of the unknowns of a fit that starts from a placed lattice."""
    centre, precision = centroid_fit.prior(frame, np.log(settings.eta_rad), settings.ln_eta_sigma)
    if settings.holds_A:
        precision[:-1] = HELD
    centre = np.append(centre, np.log(settings.domain_ang))
    precision = np.append(precision, settings.ln_domain_sigma**-2)
    if settings.shift_sigma_mm > 0:
        # of a further shift, as the detector is already moved
        centre = np.append(centre, -placed.shift_mm)
        precision = np.append(precision, np.full(2, settings.shift_sigma_mm**-2))
    return centre, precision


# ---------------------------------------------------------------- indices of spots


def assign(
    lattice: MosaicLattice,
    spots: Spots,
    spectrum: Spectrum,
    detector: Detector,
    *,
    space_group: str,
    tolerance_px: float,
) -> np.ndarray:
    """Return Miller indices (spot, 3) int32 of the spots within tolerance_px of a predicted
    centroid; 0 0 0 = none.

    Along the radius the predicted half size is added to the tolerance. Candidates are the nodes
    nearest to the spot at `QUANTILES` of the pulse; each node takes its nearest spot only.
    spectrum: compressed.
    """
    spot, node = _candidates(lattice.A, spots, spectrum, detector, space_group)
    predicted = prediction.centroids_of(lattice, node, spectrum)
    panel = spots.panel[spot]
    distance = _distance(
        predicted, panel, spots.fast[spot], spots.slow[spot], detector, tolerance_px
    )

    is_possible = (distance < tolerance_px) & (predicted.partiality > PARTIALITY_MIN)
    pairs = np.flatnonzero(is_possible)
    pairs = pairs[np.argsort(distance[pairs], kind="stable")]
    _, nearest_node = np.unique(spot[pairs], return_index=True)
    pairs = pairs[np.sort(nearest_node)]
    _, nearest_spot = np.unique(node[pairs], axis=0, return_index=True)
    pairs = pairs[nearest_spot]

    hkl = np.zeros((len(spots.fast), 3), dtype=np.int32)
    hkl[spot[pairs]] = node[pairs]
    return hkl


def _candidates(
    A: np.ndarray, spots: Spots, spectrum: Spectrum, detector: Detector, space_group: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of a spot (pair,) and a node (pair, 3) near it, each pair once."""
    cumulative = np.cumsum(spectrum.photons) / spectrum.photons.sum()
    last = len(cumulative) - 1
    channel = np.minimum(np.searchsorted(cumulative, QUANTILES), last)
    energies = spectrum.energies_ev[channel, None, None]

    s1 = geometry.direction(detector, spots.panel, spots.fast, spots.slow)
    q = (s1 - geometry.S0) / HC_EV_ANGSTROM * energies
    nodes = np.round(q @ np.linalg.inv(A).T).astype(np.int32)

    numbers = np.arange(len(s1))[:, None]
    numbers = np.broadcast_to(numbers, (*nodes.shape[:2], 1))
    pairs = np.concatenate([numbers, nodes], axis=2)
    pairs = np.unique(pairs.reshape(-1, 4), axis=0)

    spot = pairs[:, 0]
    node = pairs[:, 1:]
    exists = node.any(axis=1) & ~symmetry.is_centring_absent(node, space_group)
    return spot[exists], node[exists]


def _distance(
    predicted: prediction.Centroids,
    panel: np.ndarray,
    fast: np.ndarray,
    slow: np.ndarray,
    detector: Detector,
    tolerance_px: float,
) -> np.ndarray:
    """Return how far spots at (panel, fast, slow) are from predicted ones, px; (n,).

    A radial distance counts less where the spot is predicted long: the tolerance reaches as far as
    tolerance_px and the predicted half size together.
    """
    to_fast, to_slow = geometry.on_panel(detector, panel, predicted.s1)
    px_per_rad, _ = prediction.pixels_per_rad(detector, predicted.s1, panel, to_fast, to_slow)
    axes = geometry.radial_axes(detector, panel, fast, slow)
    difference = np.stack([fast - to_fast, slow - to_slow], axis=1)
    radial, transverse = np.einsum("sij,sj->si", axes, difference).T

    half_size = prediction.HALF_SIZE * predicted.sigma_radial * px_per_rad
    return np.hypot(radial / (1.0 + half_size / tolerance_px), transverse)

"""What is recorded of reflections that another program states without their images: partiality and
factors, from A, the pulse, the detector and the mosaicity of their lattice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.still import evidence, prediction
from spreadflow.analysis.still.integration import LEAST_VARIANCE
from spreadflow.analysis.still.prediction import MosaicLattice, Predicted
from spreadflow.analysis.strength import STRONG_SPOT
from spreadflow.config import IndexSection
from spreadflow.io.lattices.stated import StatedLattice
from spreadflow.models import Detector, Lattice, ReflectionFlag, Reflections, Spectrum, Spots
from spreadflow.physics import geometry, miller, unit_cell
from spreadflow.recipes.shot import hold_lattices

PEAK_VARIANCE_PX2 = 0.1
"""Variance of observed places that are stated without theirs: those of spots of a few pixels."""


class StatedRun(NamedTuple):
    """What the shots of a run share."""

    section: IndexSection
    detector: Detector
    bandwidth: float | None
    """relative full width at half maximum of the pulses; None = as stated, else one energy"""
    polarization: float | None
    """Kahn's K along the lab x axis; None = as stated"""


def peaks_of(stated: Sequence[StatedLattice]) -> Spots:
    """Return as peaks the strong reflections of lattices that have an observed place."""
    spots = [Spots(*(np.empty(0, dtype) for dtype in ("i4", *["f8"] * 6, "i4")))]
    for one in stated:
        rows = one.lattice.reflections
        if rows.fast_obs is None or rows.slow_obs is None:
            continue
        assert rows.intensity is not None and rows.sigma is not None, "readers see to that"
        is_seen = np.isfinite(rows.fast_obs) & np.isfinite(rows.slow_obs)
        own = is_seen & (rows.sigma > 0) & (rows.intensity >= STRONG_SPOT * rows.sigma)
        n = int(own.sum())
        spots.append(
            Spots(
                panel=rows.panel[own].astype(np.int32),
                fast=rows.fast_obs[own],
                slow=rows.slow_obs[own],
                variance_fast=np.full(n, PEAK_VARIANCE_PX2),
                variance_slow=np.full(n, PEAK_VARIANCE_PX2),
                intensity=rows.intensity[own],
                sigma=rows.sigma[own],
                n_pixels=np.zeros(n, np.int32),
            )
        )
    return Spots(*map(np.concatenate, zip(*spots, strict=True)))


def with_mosaicity(
    stated: Sequence[StatedLattice], spots: Spots, spectrum: Spectrum, run: StatedRun
) -> list[Lattice | None]:
    """Return lattices with their mosaicity and their spots, A as it is; None where the mosaicity
    can't be known.
    """
    section = run.section
    supplied = [one.lattice.A for one in stated]
    lattices = hold_lattices(supplied, spots, spectrum, section, run.detector)
    out: list[Lattice | None] = []
    for one, held in zip(stated, lattices, strict=True):
        n_indexed = np.count_nonzero(held.hkl.any(axis=1))
        is_known = "eta_rad" in one.own or section.mosaic_spread_deg is not None
        if not is_known and n_indexed < section.min_indexed:
            out.append(None)
            continue
        A = one.lattice.A
        eta_rad, domain_ang = (
            float(one.own[name][0, 0]) if name in one.own else getattr(held, name)
            for name in ("eta_rad", "domain_ang")
        )
        out.append(
            held._replace(A=A, cell=unit_cell.cell_of(A), eta_rad=eta_rad, domain_ang=domain_ang)
        )
    return out


def reflections_of(
    stated: StatedLattice, lattice: Lattice, spectrum: Spectrum, spots: Spots, run: StatedRun
) -> tuple[Reflections, evidence.Evidence]:
    """Return the reflections of a lattice as stated, with what is recorded of each worked out, and
    what they say of the lattice.
    """
    rows = stated.lattice.reflections
    kept = np.flatnonzero(rows.hkl.any(axis=1))
    polarization = run.polarization
    if polarization is None:
        polarization = stated.lattice.polarization
    predicted = _predicted(stated, kept, lattice, spectrum, run.detector, polarization)
    assert rows.intensity is not None and rows.sigma is not None, "readers see to that"
    intensity = rows.intensity[kept]
    sigma = rows.sigma[kept]
    spot = miller.rows(lattice.hkl, predicted.hkl)
    is_strong = (spot >= 0) & (intensity >= STRONG_SPOT * sigma)
    of_spots = [np.append(getattr(spots, axis), np.nan) for axis in ("fast", "slow")]
    fast_obs, slow_obs = (np.where(is_strong, column[spot], np.nan) for column in of_spots)
    nothing = np.zeros(len(kept))
    as_predicted = [name for name in Reflections._fields if name in Predicted._fields]
    reflections = Reflections(
        **{name: getattr(predicted, name) for name in as_predicted},
        fast_obs=fast_obs,
        slow_obs=slow_obs,
        intensity=intensity,
        sigma=sigma,
        sigma_background=_without_own_photons(intensity, sigma),
        background=nothing if rows.background is None else rows.background[kept],
        n_foreground=nothing.astype(np.int32),
        bbox=np.zeros((len(kept), 4), np.int32),
        half_px=np.zeros((len(kept), 2), np.float32),
        flags=np.where(stated.is_saturated[kept], ReflectionFlag.SATURATED, 0).astype(np.int32),
    )
    weighed = evidence.weigh(predicted, evidence.strengths(reflections), spot >= 0, np.empty(0))
    return reflections, weighed._replace(
        n_by_chance=np.nan,
        significance=np.nan,
        d_min=stated.d_min or weighed.d_min,
    )


def _predicted(
    stated: StatedLattice,
    kept: np.ndarray,
    lattice: Lattice,
    spectrum: Spectrum,
    detector: Detector,
    polarization: float,
) -> Predicted:
    """Return some of the stated reflections at their stated places, with what is recorded of each.
    kept: rows.
    """
    rows = stated.lattice.reflections
    hkl = rows.hkl[kept].astype(np.int32)
    mosaic = MosaicLattice(lattice.A, float(lattice.eta_rad), float(lattice.domain_ang))
    compressed = prediction.compress(spectrum)
    spots = prediction.centroids_of(mosaic, hkl, compressed)
    panel = rows.panel[kept].astype(np.int32)
    if rows.fast is None or rows.slow is None:
        fast, slow = geometry.on_panel(detector, panel, spots.s1)
    else:
        fast, slow = rows.fast[kept], rows.slow[kept]
    places = panel, fast, slow
    return prediction.at_places(mosaic, hkl, spots, places, compressed, detector, polarization)


def _without_own_photons(intensity: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return the part of σ that is not from the number of a reflection's own photons: programs add
    the variance I of these, and merging adds that of the photons expected.
    """
    variance = sigma**2 - np.maximum(intensity, 0.0)
    is_known = sigma > 0
    return np.where(is_known, np.sqrt(np.maximum(variance, LEAST_VARIANCE)), 0.0)

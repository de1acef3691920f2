"""Lattices that another program states, with their spots, ready for level 0 as if `index` had
found them.

Reflections with observed positions are the spots; where a file has none, as CrystFEL's streams,
those of the shot's peaks that lie at predictions.
"""

from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.analysis.geometry_joint import TOLERANCE_PX, IndexedLattice, LatticeIdentity
from spreadflow.analysis.still import prediction, refinement, spots
from spreadflow.analysis.still.prediction import MosaicLattice
from spreadflow.analysis.still.refinement import ETA_PRIOR_RAD
from spreadflow.config import ImportedSection
from spreadflow.errors import FileError
from spreadflow.io.lattices.indexed import IndexedReflections
from spreadflow.io.lattices.stated import StatedLattice, StatedShot
from spreadflow.models import Detector, Spectrum, Spots
from spreadflow.recipes.stated import spectrum_of
from spreadflow.recipes.stated_reflections import PEAK_VARIANCE_PX2


class ImportedRun(NamedTuple):
    """What imported shots share."""

    section: ImportedSection
    detector: Detector
    space_group: str


def space_group_of(where: object, halls: set[str]) -> str:
    """Return the space group that all lattices share. where: their files, for errors; halls: Hall
    symbols of all. Raises FileError.
    """
    todo = "Name it in level0.imported.space_group."
    if len(halls) != 1:
        found = ", ".join(sorted(halls)) or "no lattices"
        raise FileError(where, "lattices of one space group", found, todo)
    (hall,) = halls
    group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(hall))
    if group is None:
        raise FileError(where, "a space group in a usual setting", hall, todo)
    return group.xhm()


def check_panels(where: object, rows: IndexedReflections, detector: Detector) -> None:
    """Raise FileError where reflections are on panels that the detector lacks."""
    panel = rows.panel
    if len(panel) and not 0 <= panel.min() <= panel.max() < detector.n_panels:
        expected = f"panels 0 to {detector.n_panels - 1}"
        found = f"{panel.min()} to {panel.max()}"
        raise FileError(where, expected, found, "Do the two files belong together?")


def lattices_of(
    shot: StatedShot, shot_id: int, file: int, run: ImportedRun
) -> list[IndexedLattice]:
    """Return the lattices of a shot with their indexed spots. file: number of its file."""
    spectrum = prediction.compress(spectrum_of(shot, run.section.bandwidth))
    mosaic = [
        MosaicLattice(stated.lattice.A, ETA_PRIOR_RAD, run.section.domain_ang)
        for stated in shot.lattices
    ]
    if shot.spots is None:
        pairs = [_observed(stated) for stated in shot.lattices]
    else:
        pairs = _at_predictions(mosaic, shot.spots, spectrum, run)
    return [
        IndexedLattice(
            identity=LatticeIdentity(run=file, shot_id=shot_id, k=k),
            lattice=lattice,
            hkl=hkl,
            spots=own,
            spectrum=spectrum,
        )
        for k, (lattice, (hkl, own)) in enumerate(zip(mosaic, pairs, strict=True))
    ]


def _observed(stated: StatedLattice) -> tuple[np.ndarray, Spots]:
    """Return indices and spots of the reflections of a lattice that have an index, a finite
    observed position and a σ.
    """
    rows = stated.lattice.reflections
    assert rows.fast_obs is not None and rows.slow_obs is not None, "readers see to that"
    assert rows.intensity is not None and rows.sigma is not None, "readers see to that"
    is_seen = np.isfinite(rows.fast_obs) & np.isfinite(rows.slow_obs) & (rows.sigma > 0)
    own = is_seen & np.asarray(rows.hkl.any(axis=1))
    variance = np.full((len(own), 2), PEAK_VARIANCE_PX2)
    if rows.variance_obs is not None:
        is_known = np.isfinite(rows.variance_obs) & (rows.variance_obs > 0)
        variance = np.where(is_known, rows.variance_obs, variance)
    found = Spots(
        panel=rows.panel.astype(np.int32),
        fast=rows.fast_obs,
        slow=rows.slow_obs,
        variance_fast=variance[:, 0],
        variance_slow=variance[:, 1],
        intensity=rows.intensity,
        sigma=rows.sigma,
        n_pixels=np.zeros(len(own), np.int32),
    )
    return rows.hkl[own], spots.select(found, own)


def _at_predictions(
    lattices: list[MosaicLattice], peaks: Spots, spectrum: Spectrum, run: ImportedRun
) -> list[tuple[np.ndarray, Spots]]:
    """Return indices and spots of each lattice: the peaks near its predictions among those that the
    lattices before it left.
    """
    pairs = []
    for lattice in lattices:
        hkl = refinement.assign(
            lattice,
            peaks,
            spectrum,
            run.detector,
            space_group=run.space_group,
            tolerance_px=TOLERANCE_PX,
        )
        own = np.asarray(hkl.any(axis=1))
        pairs.append((hkl[own], spots.select(peaks, own)))
        peaks = spots.select(peaks, ~own)
    return pairs

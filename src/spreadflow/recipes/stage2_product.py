"""What is written of the intensities of stage 2: amplitudes, statistics beside those of the merge,
how well pixels are explained, and peaks of the anomalous difference map.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.factors import french_wilson
from spreadflow.analysis.factors.anomalous_map import NoMap, site_peaks
from spreadflow.analysis.merging import merging, statistics
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.products import Stage2, gram, merge, stage2
from spreadflow.recipes.intensities import Reflections
from spreadflow.recipes.stage2 import Intensities


class MapModel(NamedTuple):
    """What phases an anomalous difference map, and where its peaks are looked for."""

    factors: StructureFactors
    places: Mapping[str, np.ndarray]
    """site → (atom, 3) fractional coordinates of its atoms"""
    photons: np.ndarray
    """(channel,) of all pulses together"""


def amplitudes(reflections: Reflections, refined: Intensities) -> french_wilson.Posterior:
    """Return amplitudes of the reflections that a lattice recorded, in their order."""
    known = np.flatnonzero(np.isfinite(refined.sigma))
    return _posterior(reflections, refined.intensity, refined.sigma, known)


def _posterior(
    reflections: Reflections, intensity: np.ndarray, sigma: np.ndarray, rows: np.ndarray
) -> french_wilson.Posterior:
    """Return amplitudes of some rows of intensities and σ (reflection,)."""
    shell = reflections.unique.shell[rows]
    everyone = np.ones(len(rows), dtype=bool)
    means = french_wilson.shell_means(intensity[rows], everyone, shell, merging.N_SHELLS)
    centric = reflections.is_centric[rows]
    return french_wilson.posterior(intensity[rows], sigma[rows], means[shell], centric)


def merged(of_merge: merge.Merged, unique: merging.Unique) -> merging.Merged:
    """Return merged intensities in the rows of `unique`."""
    sign = np.where(of_merge.friedel < 0, -1, 1)[:, None]
    row = unique.rows(sign * of_merge.hkl)
    is_unique = row >= 0
    known = of_merge[is_unique].as_dict()
    n = len(unique)
    columns = {
        "intensity": np.full(n, np.nan),
        "sigma": np.full(n, np.nan),
        "half": np.full((n, 2), np.nan),
        "n": np.zeros(n, dtype=np.int64),
        "chi2": np.zeros(n),
    }
    for name, column in columns.items():
        column[row[is_unique]] = known[name]
    return merging.Merged(**columns)


def intensity_tables(
    reflections: Reflections, refined: Intensities, of_merge: merging.Merged, n_bins: int
) -> tuple[stage2.Merged, merge.Bins, stage2.MergeBins]:
    """Return the tables `merged`, `bins` and `merge_bins`."""
    unique = reflections.unique
    is_known = np.isfinite(refined.sigma)
    known = np.flatnonzero(is_known)
    F = amplitudes(reflections, refined)
    as_merged = merging.Merged(
        intensity=np.where(is_known, refined.intensity, np.nan),
        sigma=refined.sigma,
        half=refined.half,
        n=np.where(is_known, refined.n, 0),
        chi2=np.zeros(len(unique)),
    )
    rows = Stage2.merged(
        hkl=unique.hkl[known],
        friedel=unique.friedel[known],
        intensity=refined.intensity[known],
        sigma=refined.sigma[known],
        half=refined.half[known],
        n=refined.n[known],
        amplitude=F.amplitude,
        amplitude_sigma=F.amplitude_sigma,
        start=reflections.intensity[known],
        merge=of_merge.intensity[known],
        merge_sigma=of_merge.sigma[known],
    )
    bins = Stage2.bins(**statistics.in_bins(as_merged, unique, n_bins)._asdict())
    merge_bins = Stage2.merge_bins(**statistics.in_bins(of_merge, unique, n_bins)._asdict())
    return rows, bins, merge_bins


def shells(boxes: gram.Boxes, d_min: float, n_bins: int) -> stage2.Shells:
    """Return how well pixels are explained by resolution."""
    n_pixels = boxes.n_pixels.astype(np.float64)
    squares = np.nan_to_num(boxes.sigma_z.astype(np.float64)) ** 2 * n_pixels
    shell = merging.shells(boxes.d, d_min, n_bins)
    n = np.bincount(shell, n_pixels, n_bins)
    with np.errstate(invalid="ignore"):
        sigma_z = np.sqrt(np.bincount(shell, squares, n_bins) / n)
    return Stage2.shells(sigma_z=sigma_z, n_pixels=n.astype(np.int64))


def peaks(
    reflections: Reflections, refined: Intensities, of_merge: merging.Merged, model: MapModel
) -> stage2.Sites:
    """Return the table `sites`: heights of the anomalous difference map at the sites, with these
    amplitudes and with those of the merge, on the reflections that both have. NaN = there is no
    map.
    """
    unique = reflections.unique
    sign = np.where(unique.friedel < 0, -1, 1)[:, None]
    row = model.factors.rows(sign * unique.hkl)
    energy = int(np.argmax(np.cumsum(model.photons) >= 0.5 * model.photons.sum()))
    at_energy = model.factors._replace(anomalous=model.factors.anomalous[:, [energy]])
    F = np.where(row >= 0, at_energy.at(np.maximum(row, 0))[:, 0], np.nan)
    is_common = np.isfinite(refined.sigma) & np.isfinite(of_merge.intensity)
    heights = []
    for source in (refined, of_merge):
        sigma = np.where(is_common, source.sigma, np.nan)
        heights.append(_heights(reflections, source.intensity, sigma, F, model.places))
    return Stage2.sites(height=heights[0], height_merge=heights[1])


def _heights(
    reflections: Reflections,
    intensity: np.ndarray,
    sigma: np.ndarray,
    F: np.ndarray,
    places: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Return the mean height (site,) over the atoms of each site, in σ of the map; NaN where there
    is none.
    """
    rows = np.flatnonzero(np.isfinite(intensity) & np.isfinite(sigma))
    amplitude = np.full(len(intensity), np.nan)
    amplitude_sigma = np.full(len(intensity), np.nan)
    expected = _posterior(reflections, intensity, sigma, rows)
    amplitude[rows] = expected.amplitude
    amplitude_sigma[rows] = expected.amplitude_sigma
    xyz = np.concatenate([np.empty((0, 3)), *places.values()])
    if not len(xyz):
        return np.empty(0)
    try:
        heights = site_peaks(reflections.unique, amplitude, amplitude_sigma, F, xyz).highest
    except NoMap:
        return np.full(len(places), np.nan)
    ends = np.cumsum([len(atoms) for atoms in places.values()])
    return np.array([own.mean() for own in np.split(heights, ends[:-1])])

"""What would help where shots are not indexed, in words: by outcome, and by what their spots are
like.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from spreadflow.config import IndexSection
from spreadflow.errors import Outcome

MOST_REASONS = 20
"""Reasons for which shots were not indexed that log and summary have, the most frequent ones."""

HITS = (Outcome.INDEXED, Outcome.NO_LATTICE, Outcome.OVERFLOW)
"""Outcomes of shots with enough spots for a crystal."""

LARGEST_SMALL = 0.3
"""Share of the spots that may have the fewest pixels that a spot can have: more are noise."""

LARGEST_OUTER = 0.4
"""Share of the spots that may lie on the outer half of the pixels. Crystals scatter less there, and
noise as much as anywhere.
"""

LARGEST_AT_EDGES = 0.1
"""Share of the spots that may lie at the edges of panels, where few pixels are."""

EDGE_PX = 5.0
"""Pixels of a panel's rim in which detectors are often unreliable."""

LEAST_SHARE = 0.2
"""Share of the shots that an outcome has to end before anything is said."""

OF_FILES = {
    Outcome.UNREADABLE: "`spreadflow manifest --check` tells which files have changed.",
    Outcome.EMPTY: "Were shots recorded, and is this their dataset?",
    Outcome.MASKED: "Are the mask and the trusted range of the files right?",
    Outcome.BAD_SPECTRUM: "Do the files state a wavelength or a spectrum for each shot?",
}
"""What to do where shots cannot be used, whatever the configuration."""


class SpotCounts(NamedTuple):
    """What the spots of shots without a lattice are like."""

    n: int
    """all of them"""
    n_smallest: int
    """those with `spots.min_pixels` pixels"""
    n_outer: int
    """those on the outer half of the pixels"""
    n_at_edges: int
    """those less than `EDGE_PX` from the edge of a panel"""
    d_outer: float
    """resolution of the middle of the pixels, Å"""


def prevailing(counts: Mapping[str, int]) -> list[Outcome]:
    """Return the outcomes other than INDEXED that ended more shots than it did, and
    `LEAST_SHARE` of all, the most frequent first. Blank shots are usual: they count only where no
    shot has enough spots.

    counts: shots by the name of their outcome in lower case, as products have them.
    """
    of_outcomes = {Outcome[name.upper()]: n for name, n in counts.items()}
    n_indexed = of_outcomes.get(Outcome.INDEXED, 0)
    usual = {Outcome.INDEXED, Outcome.NOT_SUPPLIED}
    if any(of_outcomes.get(hit, 0) for hit in HITS):
        usual.add(Outcome.BLANK)
    unusual = {end: n for end, n in of_outcomes.items() if end not in usual}
    n_shots = n_indexed + sum(unusual.values())
    least = max(LEAST_SHARE * n_shots, n_indexed + 1)
    failures = [end for end, n in unusual.items() if n >= least]
    return sorted(failures, key=lambda end: -unusual[end])


def todo(outcome: Outcome, section: IndexSection, word: str) -> str:
    """Return what would help against an outcome. word: name of the section."""
    if outcome == Outcome.OVERFLOW:
        return (
            "adu_per_photon is likely too small, or the pedestal wrong: take it from the "
            "one-photon peak (`spreadflow manifest --adu-per-photon`). On detectors without "
            "such a peak raise recording.gain, the variance over the mean of the photons."
        )
    if outcome == Outcome.NO_LATTICE:
        return (
            f"Are {word}.cell and {word}.space_group the crystal's, and are wavelength, distance "
            "and beam centre right? A lattice has to explain "
            f"{section.min_fraction_indexed:.0%} of the spots ({word}.min_fraction_indexed): keep "
            f"false ones out by {word}.spots.sigma_strong, min_pixels and d_min, or lower it."
        )
    if outcome == Outcome.BLANK:
        return (
            f"If crystals were hit: lower {word}.spots.sigma_strong, global_threshold or "
            "recording.gain. Is adu_per_photon too large?"
        )
    if outcome == Outcome.SATURATED:
        return f"Is the trusted range of the files right? {word}.saturation_photons replaces it."
    return OF_FILES.get(outcome, "")


def of_spots(counts: SpotCounts, section: IndexSection, word: str) -> list[str]:
    """Return what would keep out spots that are none. word: name of the section."""
    sentences = []
    fewest = section.spots.min_pixels
    if counts.n_smallest > LARGEST_SMALL * counts.n:
        sentences.append(
            f"{counts.n_smallest} of {counts.n} spots have {fewest} pixels, as noise has: try "
            f"{word}.spots.min_pixels {fewest + 1}."
        )
    if counts.n_at_edges > LARGEST_AT_EDGES * counts.n:
        sentences.append(
            f"{counts.n_at_edges} of {counts.n} spots lie less than {EDGE_PX:g} px from the edge "
            f"of a panel: mask these pixels ({word}.mask)."
        )
    if counts.n_outer > LARGEST_OUTER * counts.n:
        sentences.append(
            f"{counts.n_outer} of {counts.n} spots lie on the outer half of the pixels, beyond "
            f"{counts.d_outer:.2f} Å, where crystals scatter least: try {word}.spots.d_min "
            f"{counts.d_outer:.2f}."
        )
    return sentences


def reasons_of(outcomes: np.ndarray, reasons: np.ndarray) -> Counter[tuple[int, str]]:
    """Return how many shots were not indexed for which reason: (outcome, reason) → shots. outcomes,
    reasons: columns of `shots`.
    """
    pairs = Counter(zip(outcomes.tolist(), reasons.tolist(), strict=True))
    return Counter(
        {
            (outcome, reason.decode(errors="ignore")): n_shots
            for (outcome, reason), n_shots in pairs.items()
            if outcome != Outcome.INDEXED and reason
        }
    )

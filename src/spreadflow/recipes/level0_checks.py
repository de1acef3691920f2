"""What to know before a detector that level 0 refined is trusted, from its figures."""

from typing import Any

import numpy as np

from spreadflow.analysis.detector_moves import KINDS
from spreadflow.config import RigidGroupsSection
from spreadflow.errors import StageWarning
from spreadflow.recipes import cell_checks

LARGEST_RISE = 1.02
"""Factor by which the r.m.s.d. of the spots may rise: a refined detector fits as well as the
header's, but for spots that only the latter was fitted to.
"""

N_SIGMAS_OF_DISTANCE = 3.0
"""Standard deviations by which the distance moves before anything is said."""

LARGEST_MOVE = 1e-3
"""Relative change of the distance up to which headers are usually wrong."""

LARGEST_GROWTH = 2e-3
"""Relative change of the cells' lengths up to which a distance that moved is no trouble."""

CHI2_RANGE = (0.25, 4.0)
"""Reduced χ² of residuals whose σ are right within a factor of 2."""

LARGEST_REJECTED = 0.1
"""Share of the spots that may lie beyond the cut: it is made for one in a hundred."""

LARGEST_PANEL_SHARE = 0.1
"""Share of the squared residuals that may come of panels which lie beside where they are refined
to.
"""

FEWEST_PER_UNKNOWN = 3
"""Spots of a group for each of its unknowns: DIALS fixes what has fewer."""

N_SIGMAS_OF_GROUPS = 3.0
"""Standard deviations of the restraint by which a group moves before anything is said."""

MOST_NAMED = 5
"""Groups that a warning names."""

LARGEST_LEFT_OUT = 0.1
"""Share of the lattices that may be unlike the others."""


def warnings_of(
    figures: dict[str, Any], target: list[float] | None, groups: RigidGroupsSection
) -> list[StageWarning]:
    """Return what to know before the detector is trusted.

    target: cell of `index`, Å and degrees; None where lattices are imported. groups: what was asked
    for.
    """
    warnings = [*_of_rest(figures), *_of_residuals(figures), *_of_lengths(figures)]
    if target is not None:
        warnings += cell_checks.target_warnings(figures["cell"], target, "index.cell")
    return [*warnings, *_of_outliers(figures), *_of_groups(figures, groups)]


def _of_rest(figures: dict[str, Any]) -> list[StageWarning]:
    """Return a warning of a refinement that did not come to rest."""
    if figures["is_converged"]:
        return []
    return [
        StageWarning(
            "the detector did not come to rest; steps of all passes",
            figures["steps"],
            "fewer",
            "Refine less of it (level0.refine, level0.rigid_groups), or from more lattices.",
        )
    ]


def _of_groups(figures: dict[str, Any], section: RigidGroupsSection) -> list[StageWarning]:
    """Return warnings of panels that do not move together, and of groups that are hardly known, far
    off, or worse than before.
    """
    warnings = []
    share = figures["panel_share"]
    if share > LARGEST_PANEL_SHARE:
        warnings.append(
            StageWarning(
                "panels are not where they are refined to; their share of the squared residuals",
                share,
                f"at most {LARGEST_PANEL_SHARE:g}",
                "They do not move together: refine smaller groups, or more of their motions; "
                "see level0.rigid_groups.",
            )
        )
    rows = figures["rigid_groups"]
    n_unknowns = sum(len(KINDS[kind]) for kind in section.refine)
    fewest = FEWEST_PER_UNKNOWN * n_unknowns
    few = [row for row in rows if row["rmsd_after"]["n"] < fewest]
    far = [row for row in rows if _size(row, section) > N_SIGMAS_OF_GROUPS]
    worse = [row for row in rows if _is_worse(row) and row not in few]
    if few:
        todo = "They stay about where the file has them: take more lattices, or larger groups."
        what = "rigid groups have too few spots"
        warnings.append(StageWarning(what, _named(few), f"{fewest} spots or more", todo))
    if far:
        limit = (
            f"{N_SIGMAS_OF_GROUPS:g} times {section.shift_sigma_mm:g} mm or "
            f"{section.turn_sigma_deg:g}° at most"
        )
        todo = "Compare with what is known of the detector: is it the right file of its geometry?"
        warnings.append(StageWarning("rigid groups moved far", _named(far), limit, todo))
    if worse:
        limit = f"at most {LARGEST_RISE:g} times that before"
        todo = "Doubt these groups: refine larger ones, or fewer of their motions."
        what = "the r.m.s.d. of the spots on rigid groups rose"
        warnings.append(StageWarning(what, _named(worse), limit, todo))
    return warnings


def _size(row: dict[str, Any], section: RigidGroupsSection) -> float:
    """Return the largest move of a group, in standard deviations of its restraint."""
    lengths = np.abs([*row["shift_mm"], row["distance_change_mm"]])
    angles = np.degrees(np.abs([*row["tilt_rad"], row["turn_rad"]]))
    return float(max(lengths.max() / section.shift_sigma_mm, angles.max() / section.turn_sigma_deg))


def _is_worse(row: dict[str, Any]) -> bool:
    """Whether the spots of a group fit worse than before, both directions together."""
    before, after = (
        np.hypot(row[f"rmsd_{when}"]["radial_px"], row[f"rmsd_{when}"]["transverse_px"])
        for when in ("before", "after")
    )
    return bool(after > LARGEST_RISE * before)


def _named(rows: list[dict[str, Any]]) -> str:
    """Return the number of some groups, and the first panels of the first of them."""
    names = ", ".join(str(row["panels"][0]) for row in rows[:MOST_NAMED])
    more = ", ..." if len(rows) > MOST_NAMED else ""
    return f"{len(rows)}: those of panels {names}{more}"


def _of_residuals(figures: dict[str, Any]) -> list[StageWarning]:
    """Return warnings of a fit that is worse than the one before, or than its σ say."""
    warnings = []
    for axis in ("radial", "transverse"):
        before, after = (figures[f"rmsd_{when}"][f"{axis}_px"] for when in ("before", "after"))
        if after > LARGEST_RISE * before:
            warnings.append(
                StageWarning(
                    f"the {axis} r.m.s.d. of the spots, px, rose as the detector was refined",
                    after,
                    f"at most {before:.4g}, as with the header's detector",
                    "Doubt the refined detector: are spectra, cell and indices right? "
                    "See level0.from to keep another.",
                )
            )
    least, most = CHI2_RANGE
    if not least <= figures["chi2_reduced"] <= most:
        warnings.append(
            StageWarning(
                "the reduced χ² of the spots is far from 1",
                figures["chi2_reduced"],
                f"{least} to {most}",
                "Spots are not where the model puts them: look at reindex.png; mind spectra, gain "
                "and point spread.",
            )
        )
    return warnings


def _of_lengths(figures: dict[str, Any]) -> list[StageWarning]:
    """Return warnings of a distance, and of cells with it, that changed more than headers are
    usually wrong.
    """
    warnings = []
    moved = figures["distance_change_mm"]
    header = figures["header_distance_mm"]
    n_sigmas = abs(moved) / figures["distance_sigma_mm"] if moved else 0.0
    if n_sigmas > N_SIGMAS_OF_DISTANCE and abs(moved) > LARGEST_MOVE * header:
        warnings.append(
            StageWarning(
                "the distance moved",
                f"{moved:+.4f} mm, {n_sigmas:.1f} σ, from {header:.4f} mm",
                f"{LARGEST_MOVE * header:.3f} mm at most, or {N_SIGMAS_OF_DISTANCE:g} σ",
                "Compare with what is known of the detector. A wrong photon energy or a missing "
                "bandwidth moves it too; level0.refine: [shift] keeps the header's.",
            )
        )
    growth = figures["cell_growth"]
    if abs(growth) > max(LARGEST_GROWTH, N_SIGMAS_OF_DISTANCE * figures["cell_growth_sigma"]):
        warnings.append(
            StageWarning(
                "the cells changed with the detector; the lengths by a factor of",
                1.0 + growth,
                f"{1 - LARGEST_GROWTH:g} to {1 + LARGEST_GROWTH:g}",
                "Compare the cells with what is known of the crystal.",
            )
        )
    return warnings


def _of_outliers(figures: dict[str, Any]) -> list[StageWarning]:
    """Return warnings of spots and lattices that had no say."""
    warnings = []
    n_spots = figures["n_reflections"] + figures["n_outliers"]
    rejected = figures["n_outliers"] / max(n_spots, 1)
    if rejected > LARGEST_REJECTED:
        warnings.append(
            StageWarning(
                "share of the spots that were rejected",
                rejected,
                f"at most {LARGEST_REJECTED:g}",
                "Look at index.png: are there false lattices, ice or a second crystal?",
            )
        )
    n_unlike = figures["outcomes"]["unlike"]
    judged = n_unlike + figures["n_lattices"]
    if n_unlike > LARGEST_LEFT_OUT * judged:
        warnings.append(
            StageWarning(
                "lattices are unlike the others and were left out",
                f"{n_unlike} of {judged}",
                f"at most {LARGEST_LEFT_OUT:g} of them",
                "See left_out in level0.fit.json, and these shots.",
            )
        )
    return warnings

"""What to know of a merge before its intensities are trusted."""

import numpy as np

from spreadflow.analysis.merging import absences, scaling
from spreadflow.errors import StageWarning
from spreadflow.products.merge import Lattices

LARGEST_SADD = 0.3
"""Relative disagreement of observations above which partialities or indices must be wrong."""

LARGEST_B_SPREAD = 10.0
"""Å²; crystals of one kind differ by a few Å² (standard deviation) in B."""

LARGEST_B = 20.0
"""Å²; a lattice's B against the mean of all beyond which its fall-off is no crystal's."""

LARGEST_CHI2 = 9.0
"""A lattice whose reflections deviate by more than 3 σ on average is not one of the others."""

UNLIKE_SIGMAS = 5.0
"""Standard deviations of ln G among lattices beyond which a scale is unlike the others."""


def of_symmetry(ambiguities: list[str], suspects: list[absences.Suspect]) -> list[StageWarning]:
    """Return warnings about how lattices may be indexed, and about the space group."""
    warnings = [
        StageWarning(
            f"axial reflections {suspect.condition()} are weak, and the space group has no screw "
            f"axis along {suspect.axis}: mean I over that of their shells, of {suspect.n_weak}",
            suspect.strength,
            "about 1",
            "Is index.space_group the right one of its point group?",
        )
        for suspect in suspects
    ]
    if ambiguities:
        warnings.append(
            StageWarning(
                "lattices may be indexed in several ways, which is not resolved: the merge is as "
                "if twinned",
                f"h,k,l or {', '.join(ambiguities)}",
                "h,k,l alone",
                "Trust no intensity until each lattice's choice is known.",
            )
        )
    return warnings


def of_scales(scales: scaling.Scaling) -> list[StageWarning]:
    """Return warnings about the refinement of scales and error model as a whole."""
    model = scales.error_model
    warnings = []
    if scales.last_change > scaling.TOLERANCE:
        warnings.append(
            StageWarning(
                f"the scales still move after {scales.n_cycles} cycles, by σ",
                scales.last_change,
                scaling.TOLERANCE,
                "Raise merge.n_cycles; look at merge.png for lattices unlike the others.",
            )
        )
    if model.sadd > LARGEST_SADD:
        warnings.append(
            StageWarning(
                "observations of one reflection disagree by a fraction of its intensity (sadd)",
                model.sadd,
                LARGEST_SADD,
                "Is the cell, the space group, the bandwidth right? Look at reindex.png.",
            )
        )
    b_spread = float(scales.spread[1])
    if b_spread > LARGEST_B_SPREAD:
        warnings.append(
            StageWarning(
                "lattices fall off with resolution very differently: standard deviation of B, Å²",
                b_spread,
                LARGEST_B_SPREAD,
                "Raise merge.d_min to where lattices carry signal.",
            )
        )
    return warnings


def of_lattices(lattices: Lattices, scales: scaling.Scaling) -> list[StageWarning]:
    """Return warnings about single lattices, the worst named. Lattices are those of all ranks."""
    chi2 = lattices.chi2
    scale = np.log(lattices.scale)
    b = lattices.b
    beyond_scale = np.abs(scale - np.nanmean(scale)) / (UNLIKE_SIGMAS * scales.spread[0])
    kinds = (
        (chi2 / LARGEST_CHI2, chi2, LARGEST_CHI2, "deviate from what others measured: χ²"),
        (
            np.abs(b) / LARGEST_B,
            b,
            f"±{LARGEST_B:g}",
            "fall off with resolution absurdly: B, Å²",
        ),
        (
            beyond_scale,
            np.exp(scale),
            f"within {UNLIKE_SIGMAS:g} standard deviations of the others",
            "have a scale unlike the others': G",
        ),
    )
    todo = "Look at their stills; leave them out with cells if they are no crystal of this kind."
    warnings = []
    for excess, value, limit, what in kinds:
        beyond = np.flatnonzero(np.nan_to_num(excess) > 1.0)
        if not len(beyond):
            continue
        worst = beyond[np.argmax(excess[beyond])]
        identity = f"shot {lattices.shot_id[worst]}, k {lattices.k[worst]}"
        warnings.append(
            StageWarning(
                f"{len(beyond)} of {int(np.isfinite(b).sum())} lattices {what}; the worst "
                f"({identity})",
                float(value[worst]),
                limit,
                todo,
            )
        )
    return warnings

"""What a person must know before they trust intensities of stage 2."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spreadflow.config import Stage2Section
from spreadflow.errors import SpreadOutcome, StageWarning
from spreadflow.products import Stage2

LARGEST_SCATTER = 0.3
"""Relative scatter of what lattices show of a reflection above which the model of lattices must be
wrong.
"""

LARGEST_FACTOR = 0.1
"""|ln| of a common factor of N or η in the last cycle above which they have not come to rest."""

LARGEST_SPREAD = 1.5
"""Standard deviation of ln volume among lattices above which brightness is no crystal's size."""

LARGEST_LOST = 0.1
"""Share of lattices that may be lost without a warning."""

LEAST_CORRELATION = 0.8
"""Correlation of amplitudes with those of the merge below which they are others."""

UNLIKE_SIGMAS = 5.0
"""Standard deviations of ln volume among lattices beyond which one is unlike the others."""


def stage2_warnings(
    section: Stage2Section,
    cycles: Sequence[Mapping[str, float]],
    product: Stage2,
    attributes: Mapping[str, Any],
) -> list[StageWarning]:
    """Return warnings about refined intensities. cycles: rows of the table of that name."""
    last = cycles[-1]
    warnings = []
    if not attributes["converged"]:
        warnings.append(
            StageWarning(
                f"the last of {len(cycles)} cycles still moved the intensities, r.m.s. by σ",
                last["change"],
                section.converged,
                "Raise stage2.max_cycles.",
            )
        )
    if last["held_out"] > last["held_out_before"]:
        warnings.append(
            StageWarning(
                f"lattices that were held out are less likely with the intensities of cycle "
                f"{len(cycles)} than with those of the cycle before, −ln L a lattice",
                last["held_out"],
                f"at most {last['held_out_before']:.6g}",
                "Take the intensities of the cycle before from stage2.cycles, or more lattices.",
            )
        )
    if last["scatter"] > LARGEST_SCATTER:
        warnings.append(
            StageWarning(
                "lattices show a reflection with intensities that scatter by a fraction of it",
                last["scatter"],
                LARGEST_SCATTER,
                "Is the mosaicity of the model that of the crystals (stage1.mosaicity)? Are "
                "lattices indexed alike?",
            )
        )
    if last["spread"] > LARGEST_SPREAD:
        warnings.append(
            StageWarning(
                "lattices differ very much in the unit cells they have in the beam: standard "
                "deviation of ln",
                last["spread"],
                LARGEST_SPREAD,
                "Look at stage2.png for lattices unlike the others.",
            )
        )
    if last["log_factor"] > LARGEST_FACTOR:
        warnings.append(
            StageWarning(
                f"N or η of all lattices still move after {len(cycles)} cycles: |ln| of the factor "
                "that makes lattices agree",
                last["log_factor"],
                LARGEST_FACTOR,
                "Raise stage2.max_cycles; is the mosaicity of the model that of the crystals?",
            )
        )
    return warnings + _of_tables(product, last["spread"])


def _of_tables(product: Stage2, spread: float) -> list[StageWarning]:
    """Return warnings about lattices, and about amplitudes unlike those of the merge. spread:
    standard deviation of ln volume.
    """
    warnings = []
    lattices = product.lattices
    outcome = lattices.outcome
    n_lost = int((outcome == SpreadOutcome.LOST).sum())
    if n_lost > LARGEST_LOST * len(outcome):
        warnings.append(
            StageWarning(
                "lattices could not be refined with the intensities of all",
                f"{n_lost} of {len(outcome)}",
                f"{LARGEST_LOST:.0%} at most",
                "Look at stage1.png and the log.",
            )
        )
    volume = lattices.log_volume
    away = np.abs(volume - np.nanmedian(volume)) / max(spread, 1e-300)
    beyond = np.flatnonzero(np.nan_to_num(away) > UNLIKE_SIGMAS)
    if len(beyond):
        worst = beyond[np.argmax(away[beyond])]
        warnings.append(
            StageWarning(
                f"{len(beyond)} of {len(outcome)} lattices have a volume unlike the others'; the "
                f"worst (shot {lattices.shot_id[worst]}, k {lattices.k[worst]}), ln volume against "
                "the median by σ",
                float(away[worst]),
                UNLIKE_SIGMAS,
                "Look at its still; leave it out with cells if it is no crystal of this kind.",
            )
        )
    merge = product.merged.merge
    both = np.isfinite(merge)
    if both.sum() > 2:
        F_merge = np.sqrt(np.maximum(merge[both], 0.0))
        F = np.sqrt(np.maximum(product.merged.intensity[both], 0.0))
        correlation = float(np.corrcoef(F_merge, F)[0, 1])
        if correlation < LEAST_CORRELATION:
            warnings.append(
                StageWarning(
                    "amplitudes are unlike those of the merge: correlation",
                    correlation,
                    LEAST_CORRELATION,
                    "Look at stage2.png and merge.png before either is trusted.",
                )
            )
    return warnings

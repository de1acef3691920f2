"""Section of the stage that refines one intensity for each unique reflection."""

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from spreadflow.config.base import Section


class Stage2Section(Section):
    """One intensity for each unique reflection, flat in energy, from the pixels of all lattices."""

    start: Literal["merge", "model"] = "merge"
    """intensities that the refinement starts from: those of `merge`, or |F|² of
    `stage1.structure_factors`
    """
    max_cycles: PositiveInt = 3
    """intensities and lattices are refined in turns, at most so often"""
    converged: PositiveFloat = 0.1
    """r.m.s. change of the intensities, in their σ, that ends the cycles"""
    restraint_sigma: PositiveFloat | None = None
    """relative σ with which intensities are restrained to those they start from; null = not at
    all
    """
    n_bins: PositiveInt = 20
    """resolution shells of the statistics"""
    block_lattices: PositiveInt = 8
    """lattices in a part file"""

"""Sections of the reflections that are worth their pixels, and of these pixels."""

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from spreadflow.config.base import Fraction, Inconsistent, Section


class PredictSection(Section):
    """Which reflections of the lattices of stage 1 are worth their pixels: by their place and the
    mean |F|² of their resolution, of `stage1.structure_factors`.
    """

    d_max: PositiveFloat = 20.0
    """low-resolution edge, Å"""
    d_min: PositiveFloat = 2.1
    """high-resolution edge, Å; may be beyond `reindex.d_min`"""
    min_expected: NonNegativeFloat = 0.5
    """photons that an average reflection in its place would have, in units of the noise without
    them: a reflection with less is weak
    """
    weak_fraction: Fraction = 0.1
    """share of the weak reflections that is kept, drawn by lot from seed, shot, lattice and Miller
    index
    """
    match_px: PositiveFloat = 3.0
    """largest distance of a prediction from its observed spot"""

    @model_validator(mode="after")
    def _order(self):
        if self.d_min >= self.d_max:
            raise Inconsistent("d_min", f"less than predict.d_max, {self.d_max}", self.d_min)
        return self


class PackSection(Section):
    """The pixels of the reflections that `predict` chose, in few files."""

    border_px: NonNegativeInt = 3
    """pixels added around the integration shoebox"""
    block_lattices: PositiveInt = 256
    """lattices in a part file, about: parts of `predict` stay whole"""

"""The section of level 0: which lattices say where the detector is, and what of it moves."""

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from spreadflow.config.base import Chosen, Fraction, Section
from spreadflow.config.simulation import LatticesSection


class RigidGroupsSection(Section):
    """Groups of panels that move beside the detector, each as one body."""

    which: Literal["detector", "quadrants", "modules", "panels"] | list[list[NonNegativeInt]] = (
        "detector"
    )
    """detector = it moves as one body; quadrants = the largest groups that its file states (the
    hierarchy of an .expt, `depends_on` of NXmx, rigid groups of a .geom), modules = the smallest;
    panels = each by itself; or lists of numbers of panels: those not listed move together
    """
    refine: Chosen[Literal["shift", "distance", "tilt", "turn"]] = ["shift", "turn"]
    """what moves; turn = about the normal of the detector"""
    shift_sigma_mm: PositiveFloat = 0.3
    """standard deviation of shifts and distances about where the file has a group"""
    turn_sigma_deg: PositiveFloat = 0.3
    """standard deviation of turns and tilts"""


class ImportedSection(LatticesSection):
    """Lattices that another program indexed and refined, with their spots: no image is opened."""

    space_group: str | None = None
    """null = as stated; streams state no more than a centring"""
    domain_ang: PositiveFloat = 3000.0
    """edge of a mosaic domain, as in `index`"""


class Level0Section(Section):
    """One shift and distance of the detector from the lattices of all runs."""

    runs: Chosen[str] | None = None
    """null = all runs"""
    max_lattices: PositiveInt | None = None
    """at most this many lattices take part; null = all"""
    from_file: Path | None = Field(default=None, alias="from")
    """a frozen level0.expt: nothing is refined"""
    refine: Chosen[Literal["shift", "distance", "tilt"]] = ["shift", "distance"]
    """what moves, of the detector as a whole"""
    rigid_groups: RigidGroupsSection = RigidGroupsSection()
    """what moves beside it"""
    imported: ImportedSection | None = None
    """lattices of another program in place of those of `index`"""
    outlier_probability: Fraction = 0.99
    """χ² quantile of the robust (minimum covariance determinant) cut on residuals"""
    min_reflections: PositiveInt = 10
    """per lattice; lattices with fewer take no part"""

    model_config = ConfigDict(populate_by_name=True)

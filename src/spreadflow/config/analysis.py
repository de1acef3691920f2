"""Sections of the analysis, one per stage."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from spreadflow.config.base import (
    CellParameters,
    Chosen,
    Fraction,
    Inconsistent,
    Resolution,
    Section,
    SpaceGroupName,
    check_cell_fits_group,
)


class SpotsSection(Section):
    """Spot finding by dispersion (Winter et al. 2018)."""

    sigma_background: PositiveFloat = 6.0
    """threshold of the variance test, in its σ"""
    sigma_strong: PositiveFloat = 3.0
    """threshold of the pixel above its mean, in σ"""
    global_threshold: float = 0.0
    """photons, after the pedestal is subtracted"""
    kernel: Annotated[
        list[Annotated[int, Field(gt=0, le=1000)]], Field(min_length=2, max_length=2)
    ] = [4, 4]
    """half sizes (slow, fast) of the window"""
    min_pixels: PositiveInt = 2
    """smaller spots are noise"""
    max_pixels: PositiveInt = 200
    """larger spots are artefacts"""
    d_min: Resolution | None = None
    """high-resolution limit of spots, Å; null = none"""
    d_max: PositiveFloat | None = None
    """low-resolution limit of spots, Å; null = none"""
    min_spots: PositiveInt = 12
    """fewer spots than this is a blank"""
    max_spots: Annotated[int, Field(gt=0, le=1_000_000)] = 2000
    """more spots than this is an OVERFLOW"""

    @model_validator(mode="after")
    def _order(self):
        for name in ("pixels", "spots"):
            low, high = (getattr(self, f"{end}_{name}") for end in ("min", "max"))
            if low > high:
                raise Inconsistent(f"min_{name}", f"at most max_{name}, {high}", low)
        if self.d_min is not None and self.d_max is not None and self.d_min >= self.d_max:
            raise Inconsistent("d_min", f"less than d_max, {self.d_max}", self.d_min)
        return self


class IndexSection(Section):
    """Spots → lattices → integrated reflections. `reindex` overlays this section."""

    space_group: SpaceGroupName = "C 1 2 1"
    """of the target; any name gemmi knows"""
    cell: CellParameters = [67.2, 59.8, 47.2, 90.0, 110.3, 90.0]
    """target cell; may be wrong by 3 % and 3°"""
    spots: SpotsSection = SpotsSection.defaults()
    """how spots are found"""
    mask: Path | None = None
    """HDF5 dataset `mask` (panel, slow, fast) or (slow, fast), non-zero = not to be used; added to
    the file's own
    """
    saturation_photons: PositiveFloat | None = None
    """upper end of the trusted range; null = as in the file"""
    saturated_fraction_max: Fraction = 0.002
    """of the usable pixels; a shot with more above the trusted range is SATURATED"""
    d_min: Resolution = 1.9
    """resolution to which reflections are predicted"""
    max_lattices: PositiveInt = 3
    """at most this many lattices in a shot"""
    min_indexed: PositiveInt = 8
    """spots a lattice must explain"""
    min_fraction_indexed: Fraction = 0.3
    """of the spots still free when the lattice was found"""
    length_tolerance: Fraction = 0.05
    """how far a, b, c may be from the target, relative"""
    angle_tolerance_deg: PositiveFloat = 5.0
    """how far α, β, γ may be from the target"""
    n_directions: Annotated[int, Field(gt=0, le=10_000_000)] = 32768
    """trial vectors for the axis that leads the search"""
    rmsd_max_px: PositiveFloat = 2.0
    """a lattice with a larger r.m.s.d. is refused"""
    mosaic_spread_deg: PositiveFloat | None = None
    """null = estimated from the data of each lattice"""
    domain_ang: PositiveFloat = 3000.0
    """edge of a mosaic domain that prediction assumes, unless the spots of a lattice contradict it
    by more than a factor of 2.5
    """
    block_shots: PositiveInt = 256
    """shots in a part file; ranks share smaller pieces of it"""

    @model_validator(mode="after")
    def _fits(self):
        try:
            check_cell_fits_group(self.cell, self.space_group)
        except Inconsistent as error:
            if "cell" not in self.model_fields_set:
                raise Inconsistent("cell", error.expected, "none") from None
            if "space_group" not in self.model_fields_set:
                expected = f"that of the crystals with the cell {self.cell}"
                raise Inconsistent("space_group", expected, "none") from None
            raise
        return self


class CellsSection(Section):
    """Clusters of unit cells, and which lattices are accepted."""

    runs: Chosen[str] | None = None
    """runs the clusters are found on (the accepted list always covers all runs); null = all"""
    from_file: Path | None = Field(default=None, alias="from")
    """frozen clusters: a cells.h5, its populations as JSON (`spreadflow export --to json`), or a
    covariance pickle of uc_metrics, of which nothing is executed
    """
    features: Chosen[Literal["a", "b", "c", "alpha", "beta", "gamma"]] = [
        "a",
        "b",
        "c",
        "alpha",
        "beta",
        "gamma",
    ]
    """cell parameters the clusters are found on; those that the space group fixes do not count"""
    eps_ang: PositiveFloat | None = None
    """DBSCAN radius, Å; an angle counts as its arc at the geometric mean of its axes; null = as the
    distances between cells suggest
    """
    min_samples: PositiveInt | None = None
    """lattices within `eps_ang` that make a cluster; null = 0.5 %, and at least 3"""
    cluster: NonNegativeInt | None = None
    """number of the cluster whose lattices are accepted, the largest is 0; null = the largest, or
    that of the frozen file
    """
    mahalanobis_max: PositiveFloat = 4.0
    """accepted lattices are nearer to the chosen cluster than this"""

    model_config = ConfigDict(populate_by_name=True)


class MergeSection(Section):
    """Scales, error model and merged intensities."""

    d_min: Resolution = 1.9
    """high-resolution limit, Å"""
    reference: Path | None = None
    """what the scales are taken against (mark0): a model (PDB, mmCIF), or merged intensities or
    amplitudes (MTZ, structure factors in mmCIF); null = no reference
    """
    refine_b: bool = True
    """a relative B factor for each lattice besides its scale"""
    partiality_min: Fraction = 0.05
    """reflections recorded less than this (relative to the best at their resolution) do not count
    """
    min_reflections: PositiveInt = 10
    """lattices with fewer do not count"""
    n_bins: PositiveInt = 10
    """resolution shells of the statistics"""
    n_cycles: PositiveInt = 60
    """at most this many cycles of scaling and error model"""
    min_multiplicity: PositiveInt = 1
    """unique reflections with fewer observations are left out"""


class AnnulusSection(Section):
    """Shoeboxes of a resolution range. `wide` overlays this section."""

    d_max: PositiveFloat = 2.5
    """low-resolution edge, Å"""
    d_min: Resolution = 2.1
    """high-resolution edge, Å; at least `reindex.d_min`"""
    min_i_over_sigma: float | None = None
    """null = every predicted reflection"""
    border_px: NonNegativeInt = 3
    """pixels added around the integration shoebox"""

    @model_validator(mode="after")
    def _order(self):
        if self.d_min >= self.d_max:
            raise Inconsistent("d_min", f"less than annulus.d_max, {self.d_max}", self.d_min)
        return self


class LadderSection(Section):
    """The regression series, rung by rung on the same lattices."""

    structure_factors: dict[str, Any] = {}
    """keys of `structure_factors` that differ in the model"""
    n_lattices: PositiveInt | None = None
    """at most this many lattices, of all parts alike, take part in the rungs with a model; null =
    all
    """
    misset_deg: NonNegativeFloat = 0.02
    """lattices are turned by so much, about random axes, before they are modelled: the last rung
    has it to find
    """
    n_domains: Annotated[int, Field(gt=0, le=100_000)] = 25
    """mosaic domains of the model, drawn once from the distribution of a lattice's mosaic spread"""


class PixelsSection(Section):
    """How pixels are modelled, whatever is learned from them: `mosaic` has `stage1`'s."""

    structure_factors: dict[str, Any] = {}
    """keys of `structure_factors` that differ in the model"""
    n_cells_axes: Literal[1, 3] = 1
    """1 = as many cells along a, b and c; 3 = each axis its own"""
    oversample: Annotated[int, Field(gt=0, le=100)] = 2
    """sub-pixels along each edge, each averaged over its square: spots are no wider than a pixel or
    two
    """


class RestraintSection(Section):
    """A normal restraint about where the fit starts."""

    sigma: PositiveFloat
    """its standard deviation"""


class ValueRestraint(RestraintSection):
    """A normal restraint about a value."""

    centre: PositiveFloat | None = None
    """null = where the fit starts"""


class CellRestraint(RestraintSection):
    """A normal restraint about a cell."""

    centre: CellParameters | None = None
    """a b c (Å) α β γ (degrees); null = as indexed"""


class ChangeRestraint(RestraintSection):
    """A normal restraint about a change."""

    centre: float = 0.0
    """of what the fit starts with"""


class RestraintsSection(Section):
    """Normal restraints of what is refined, such as `n_cells: {centre: 55, sigma: 5}`; null = a
    weak one.
    """

    scale: ValueRestraint | None = None
    """mosaic domains in the beam, null = of least squares at the start; σ relative"""
    rotation: RestraintSection | None = None
    """about the orientation as indexed; σ about any axis, degrees"""
    cell: CellRestraint | None = None
    """of the cell; σ relative, of any length in the crystal (less of those that symmetry makes
    equal)
    """
    n_cells: ValueRestraint | None = None
    """of N, the same on each axis; both in cells"""
    eta: ValueRestraint | None = None
    """of η where it is an unknown, the same for each axis; both in degrees"""
    distance: ChangeRestraint | None = None
    """of the change of the detector's distance; both in mm"""
    wavelength: ChangeRestraint | None = None
    """of the relative change of the wavelength"""

    def by_name(self) -> dict[str, RestraintSection]:
        """Return the restraints that are configured, by name."""
        restraints = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in restraints.items() if value is not None}


class Stage1Section(PixelsSection):
    """Each lattice refined against its pixels."""

    range: Literal["annulus", "wide"] = "annulus"
    """shoeboxes to refine against"""
    mosaicity: Literal["continuous", "domains", "learned"] = "continuous"
    """of the model: a smooth distribution, given domains, or a distribution estimated from the
    pixels
    """
    domains: Path | None = None
    """HDF5 dataset `rotations` (domain, 3, 3), for `domains`"""
    refine: Chosen[
        Literal["scale", "rotation", "cell", "n_cells", "eta", "distance", "wavelength"]
    ] = [
        "scale",
        "rotation",
        "cell",
        "n_cells",
        "eta",
    ]
    """what moves, besides the background of every shoebox"""
    eta_axes: Literal[1, 3] = 1
    """1 = one η; 3 = η by axis of the crystal (a, c* × a, c*): domains turn more about some than
    about others. Domains that are given or learned have none to refine
    """
    restraints: RestraintsSection = RestraintsSection.defaults()
    """what is known of the unknowns besides the pixels; part of every quoted σ"""
    target: Literal["normal", "poisson"] = "normal"
    """−ln L of a pixel: with the model's variance, gains included, or of counts alone, readout as a
    shift
    """
    minimizer: Literal["levenberg", "lbfgs"] = "levenberg"
    """of −ln L: second-order steps or, for comparison, L-BFGS, which takes about six times as many
    evaluations
    """
    max_iterations: PositiveInt = 30
    """evaluations of a lattice's model, the first pass apart; one that needs more has not converged
    """
    uncertainty: Literal["sandwich", "fisher"] = "sandwich"
    """which σ is quoted: over shoeboxes, honest where the model is wrong, or of the model; both are
    stored
    """
    block_lattices: PositiveInt = 16
    """lattices that a rank refines before it writes them; a part file holds more"""

    @model_validator(mode="after")
    def _determined(self):
        lengths = [name for name in ("cell", "distance", "wavelength") if name in self.refine]
        if len(lengths) > 1:
            expected = "one of cell, distance and wavelength: in one shot they are degenerate"
            raise Inconsistent("refine", expected, ", ".join(lengths))
        for name in self.restraints.by_name():
            if name not in self.refine:
                expected = (
                    f"an unknown that is refined, {', '.join(self.refine)}: what is held needs "
                    "no restraint"
                )
                raise Inconsistent(f"restraints.{name}", expected, name)
        if self.restraints.eta is not None and self.mosaicity == "domains":
            expected = "null where stage1.mosaicity is 'domains', which have no η"
            raise Inconsistent("restraints.eta", expected, "eta")
        if self.mosaicity == "domains" and self.domains is None:
            expected = "a file of rotations where stage1.mosaicity is 'domains'"
            raise Inconsistent("domains", expected, None)
        return self


class MosaicSection(Section):
    """How mosaic domains are turned, learned from the pixels. What is null is as in `stage1`, but
    for `range`.
    """

    structure_factors: dict[str, Any] = {}
    """keys of the model of `stage1` that differ"""
    n_cells_axes: Literal[1, 3] | None = None
    """1 = as many cells along a, b and c; 3 = each axis its own"""
    oversample: PositiveInt | None = None
    """sub-pixels along each edge, each averaged over its square"""
    scope: Literal["shared", "per_lattice"] = "shared"
    """one distribution in the lab frame for all lattices, or for each its own"""
    range: Literal["annulus", "wide"] | None = None
    """shoeboxes to learn from; null = `annulus` where the distribution is shared, else `wide`"""
    max_lattices: PositiveInt = 30
    """a shared distribution is learned from so many at most, evenly chosen"""
    block_lattices: PositiveInt = 4
    """lattices in a part file, where each has its own distribution"""

    @property
    def shoeboxes(self) -> str:
        """The stage that packs what is learned from: annulus or wide."""
        return self.range or ("annulus" if self.scope == "shared" else "wide")

    def of_stage1(self, stage1: Stage1Section) -> "MosaicSection":
        """Return the section with stage 1's pixels where its own are null: other pixels would teach
        it another distribution than it needs.
        """
        null = [name for name in PixelsSection.model_fields if getattr(self, name) is None]
        values = {name: getattr(stage1, name) for name in null}
        return self.model_copy(update=values)

"""Section of the last stage: curves of the metal sites."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from spreadflow.config.base import Inconsistent, Section


class SpreadSection(Section):
    """f′(E) and f″(E) of each site of `stage1.structure_factors`, which are also where the
    refinement starts.
    """

    shoeboxes: Literal["wide", "pack"] = "wide"
    """the stage that packs their pixels: all reflections of a range, or those that `predict` chose
    """
    d_max: PositiveFloat = 4.0
    """low-resolution edge of the shoeboxes that count, Å"""
    d_min: PositiveFloat | None = None
    """high-resolution edge, Å; null = that of the shoeboxes"""
    step_ev: PositiveFloat = 2.0
    """between nodes of the curves, which are linear in between"""
    range_ev: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)] | None = None
    """first and last node; null = all channels of the spectra"""
    restraint: Literal["none", "kramers_kronig", "smooth", "known"] = "none"
    """of the curves that are quoted; those without, with the dispersion relation and smoothed are
    always stored
    """
    kramers_kronig_sigma_e: NonNegativeFloat = 0.0
    """how well the dispersion relation holds; 0 = exactly: of f′ only a straight line is then
    unknown
    """
    line_sigma_e: PositiveFloat = 0.15
    """how well tables know that line, a constant and a slope, from energies beyond the nodes"""
    smooth_sigma_e: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)] = [0.1, 0.2]
    """standard deviations of the steps of f′ and f″ over 1 eV"""
    known: list[str] | None = None
    """for `known`: a curve for each site, `metallic`, `oxidized`, `reduced` or a file, to which it
    is restrained
    """
    known_sigma_e: PositiveFloat = 1.0
    """standard deviation about it"""
    model_error: NonNegativeFloat | None = None
    """standard deviation of a modelled pixel relative to its Bragg photons; null = from each
    lattice's residuals
    """
    unknown_f: Literal["complex", "real", "none"] = "complex"
    """what is unknown of F of each reflection beside the sites' f′, f″: F itself, integrated out
    with a prior about the model that the data make; its modulus, with the phase of the model;
    nothing
    """
    f0_sigma: PositiveFloat = 0.02
    """relative standard deviation of the modulus, for `real`"""
    refine_sites: list[Literal["place", "b", "occupancy"]] = []
    """what else is unknown of each site: F beside the sites does not take it up"""
    place_sigma_ang: PositiveFloat = 0.1
    """how well the model knows the place of a site, along each axis"""
    b_sigma_ang2: PositiveFloat = 1.0
    """how well it knows B of a site, relative to that of all atoms"""
    occupancy_sigma: PositiveFloat = 0.1
    """how well it knows the occupancy of a site, relative"""
    max_cycles: PositiveInt = 3
    """curves and lattices are refined in turns, at most so often"""
    converged: PositiveFloat = 0.05
    """largest change of a curve, in its σ, that ends the cycles"""
    uncertainty: Literal["sandwich", "fisher"] = "sandwich"
    """which σ is quoted: from the scatter of lattices, or of reflections where F is unknown, honest
    where the model is wrong; or of the model; both are stored
    """
    band_sigma_e: PositiveFloat = 0.5
    """σ within which the curves count as determined"""
    controls: bool = True
    """refine again from other starts, with wrong indices, labels and spectra"""
    block_lattices: PositiveInt = 8
    """lattices in a part file"""

    @model_validator(mode="after")
    def _consistent(self):
        if self.d_min is not None and self.d_min >= self.d_max:
            raise Inconsistent("d_min", f"less than spread.d_max, {self.d_max}", self.d_min)
        if self.range_ev:
            first, last = self.range_ev
            if last - first < self.step_ev:
                expected = f"at least spread.step_ev, {self.step_ev} eV, wide"
                raise Inconsistent("range_ev", expected, self.range_ev)
        if self.refine_sites and self.unknown_f == "none":
            expected = "nothing where spread.unknown_f is 'none'"
            raise Inconsistent("refine_sites", expected, self.refine_sites)
        if self.restraint == "known" and not self.known:
            expected = "a curve for each site where spread.restraint is 'known'"
            raise Inconsistent("known", expected, self.known)
        return self

"""Product of `stage2`: one intensity for each unique reflection, from the pixels of all
lattices.
"""

from spreadflow.products import merge
from spreadflow.products.core import (
    NOT_USED,
    Column,
    LatticeIdentity,
    PixelDeviations,
    Product,
    Table,
    TableOf,
)


class Merged(Table):
    """Unique reflections that a lattice recorded, Friedel mates apart."""

    hkl = Column("int32", "", "asymmetric unit (CCP4)", (3,))
    friedel = Column("int8", "", "+1 = I(+), -1 = I(-), 0 = centric")
    intensity = Column("float64", "", "I, on the scale of what it starts from")
    sigma = Column(
        "float64", "", "standard deviation, scatter among lattices considered; no common scale"
    )
    half = Column(
        "float64",
        "",
        "I from the half sets by hash of shot_id",
        (2,),
        not_finite="NaN = none",
    )
    n = Column("int32", "", "lattices that recorded it")
    amplitude = Column("float64", "", "F after French & Wilson")
    amplitude_sigma = Column("float64", "", "its standard deviation")
    start = Column("float64", "", "I that the refinement started from")
    merge = Column("float64", "", "I of the merge", not_finite="NaN = not merged")
    merge_sigma = Column("float64", "", "its σ", not_finite="NaN = not merged")


class MergeBins(merge.Bins):
    """Statistics of the merge, in the same shells."""


class Lattices(PixelDeviations, LatticeIdentity):
    """How the lattices of the shoeboxes ended."""

    outcome = Column("uint8", "", "errors.SpreadOutcome")
    log_volume = Column(
        "float64", "", "ln of the unit cells that it has in the beam", not_finite=NOT_USED
    )
    seconds = Column("float64", "s", "processor time spent on the lattice in the last cycle")


class Cycles(Table):
    """The cycles in which intensities and lattices were refined in turns."""

    n_lattices = Column("int32", "", "lattices that were used")
    change = Column("float64", "", "r.m.s. change of I in its σ, from the cycle before")
    spread = Column("float64", "", "standard deviation of ln volume among lattices")
    scatter = Column(
        "float64",
        "",
        "of what lattices show of a reflection about its I, relative, beyond "
        "noise and the channels",
    )
    held_out = Column(
        "float64",
        "",
        "−ln L a lattice of each half's lattices with I of the other half",
        not_finite="NaN = half sets have too little in common",
    )
    held_out_before = Column(
        "float64",
        "",
        "the same with I of the cycle before",
        not_finite="NaN = the first, or too little in common",
    )
    model_error = Column(
        "float64", "", "median over lattices of that of a pixel, relative to its Bragg photons"
    )
    n_undetermined = Column(
        "int32", "", "reflections recorded, whose σ would exceed the mean at their resolution"
    )
    n_cells = Column("float64", "", "median over lattices and axes of the N they were held at")
    eta_deg = Column("float64", "deg", "the same of η")
    log_factor = Column(
        "float64",
        "",
        "largest |ln| of the common factors by which N and η then were multiplied",
    )
    n_iterations = Column("int32", "", "of all solves for the intensities")
    seconds = Column("float64", "s", "processor time of the solves on the first rank")


class Shells(Table):
    """How well pixels are explained, in the shells of `bins`."""

    sigma_z = Column(
        "float64",
        "",
        "r.m.s. of (data − model)/√variance over the pixels of the shoeboxes",
        not_finite="NaN = none",
    )
    n_pixels = Column("int64", "px", "pixels fitted")


class Sites(Table):
    """Anomalous difference map at the sites of attribute `sites`."""

    height = Column(
        "float64",
        "",
        "peak within 1 Å of the site, in σ of the map",
        not_finite="NaN = no map",
    )
    height_merge = Column(
        "float64",
        "",
        "the same with the merge's amplitudes",
        not_finite="NaN = no map",
    )


class Stage2(Product):
    """One intensity for each unique reflection."""

    kind = "stage2"

    merged = TableOf(Merged)
    bins = TableOf(merge.Bins)
    merge_bins = TableOf(MergeBins)
    lattices = TableOf(Lattices)
    cycles = TableOf(Cycles)
    shells = TableOf(Shells)
    sites = TableOf(Sites)

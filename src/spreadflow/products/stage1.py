"""Product of `stage1`: lattices refined against their pixels."""

from spreadflow.products.core import Column, LatticeIdentity, Product, Table, TableOf

NOT_FITTED = "NaN = not fitted"
"""What numbers of a lattice are that could not be fitted."""

NO_COUNT = "NaN = does not count"
"""What pixels are that are not compared with the model."""


class Lattices(LatticeIdentity):
    """The lattices of the shoeboxes."""

    outcome = Column("uint8", "", "errors.RefinedOutcome", in_manifest=True)
    A = Column(
        "float64",
        "1/angstrom",
        "refined matrix, the mean of the mosaic domains",
        (3, 3),
        not_finite=NOT_FITTED,
        in_manifest=True,
    )
    cell = Column(
        "float64",
        "angstrom, rad",
        "a b c alpha beta gamma",
        (6,),
        not_finite=NOT_FITTED,
        in_manifest=True,
    )
    cell_sigma = Column(
        "float64",
        "angstrom, rad",
        "standard deviation, as quoted",
        (6,),
        not_finite="NaN = held, or not fitted",
    )
    misset_rad = Column(
        "float64",
        "rad",
        "rotation vector from the orientation in the annulus, lab frame",
        (3,),
        not_finite=NOT_FITTED,
    )
    misset_sigma_rad = Column(
        "float64",
        "rad",
        "standard deviation, as quoted",
        (3,),
        not_finite="NaN = held, or not fitted",
    )
    n_cells = Column(
        "float64",
        "",
        "unit cells of a mosaic domain along a, b, c",
        (3,),
        not_finite=NOT_FITTED,
        in_manifest=True,
    )
    eta_rad = Column(
        "float64",
        "rad",
        "mosaic spread: r.m.s. rotation angle; held where it is no unknown",
        not_finite=NOT_FITTED,
        in_manifest=True,
    )
    eta_axes_rad = Column(
        "float64",
        "rad",
        "mosaic spread by axis of the crystal, a, c* × a, c*: √3 times the r.m.s. rotation "
        "about it; all the same where `stage1.eta_axes` is 1",
        (3,),
        not_finite=NOT_FITTED,
        in_manifest=True,
    )
    scale = Column(
        "float64",
        "",
        "mosaic domains in a beam of `recording.beam_size_mm`",
        not_finite=NOT_FITTED,
        in_manifest=True,
    )
    values = Column(
        "float64",
        "",
        "unknowns, named in attribute `unknowns`: ln scale, ln N, ln η; rotation (rad, lab "
        "axes), strains of "
        "the cell, distance (mm), relative wavelength: from those in the annulus",
        ("unknown",),
        not_finite="NaN = held, or not fitted",
        in_manifest=True,
    )
    sigma_fisher = Column(
        "float64",
        "",
        "of the unknowns: true where the model is",
        ("unknown",),
        not_finite="NaN = held, or not fitted",
    )
    sigma_sandwich = Column(
        "float64",
        "",
        "of the unknowns: over shoeboxes",
        ("unknown",),
        not_finite="NaN = held, or not fitted",
        in_manifest=True,
    )
    correlation = Column(
        "float64",
        "",
        "of the unknowns, as quoted",
        ("unknown", "unknown"),
        not_finite="NaN = held, or not fitted",
    )
    loss_before = Column(
        "float64",
        "",
        "−ln L of the start, with the scale and planes that suit it best, and its restraints",
        not_finite=NOT_FITTED,
    )
    loss_after = Column(
        "float64", "", "−ln L of the fit, with its restraints", not_finite=NOT_FITTED
    )
    held_out_gain = Column(
        "float64",
        "",
        "by how much −ln L of shoeboxes that were not fitted is expected to be lower with "
        "orientation and cell of the pixels; ≤ 0 = those of the spots were kept",
        not_finite="NaN = not compared, or not fitted",
    )
    sigma_z = Column(
        "float64",
        "",
        "standard deviation of (data − model)/√variance over the pixels",
        not_finite=NOT_FITTED,
    )
    n_evaluations = Column("int32", "", "of the model with its derivatives")
    n_boxes = Column("int32", "", "shoeboxes with pixels")
    n_pixels = Column("int32", "px", "pixels fitted")
    seconds = Column("float64", "s", "processor time spent on the lattice")


class Reflections(Table):
    """The reflections of the lattices that were fitted."""

    lattice = Column("int32", "", "row of lattices; those that were fitted", refers="lattices")
    hkl = Column("int32", "", "Miller index as observed, conventional axes", (3,))
    d = Column("float32", "angstrom", "resolution")
    panel = Column("int32", "", "panel")
    fast = Column(
        "float64",
        "px",
        "centroid of the model's Bragg photons",
        not_finite="NaN where there are none",
    )
    slow = Column(
        "float64",
        "px",
        "centroid of the model's Bragg photons",
        not_finite="NaN where there are none",
    )
    fast_before = Column("float64", "px", "centroid predicted by spots, as in the annulus")
    slow_before = Column("float64", "px", "centroid predicted by spots, as in the annulus")
    fast_obs = Column(
        "float32", "px", "observed centroid, as in the annulus", not_finite="NaN where I/σ < 5"
    )
    slow_obs = Column(
        "float32", "px", "observed centroid, as in the annulus", not_finite="NaN where I/σ < 5"
    )
    fast_floor = Column(
        "float32",
        "px",
        "observed − model centroid of spots drawn from the model",
        not_finite="NaN if weak",
    )
    slow_floor = Column("float32", "px", "the same along slow", not_finite="NaN if weak")
    delta_psi_rad = Column(
        "float32", "rad", "rotation onto the Ewald sphere of the shot's mean energy"
    )
    delta_psi_before_rad = Column("float32", "rad", "the same as in the annulus")
    photons = Column("float32", "photon", "Bragg photons of the model in the shoebox")
    plane = Column(
        "float32",
        "photon",
        "background: level at the middle, slopes per 10 px along fast, slow",
        (3,),
    )
    sigma_z = Column(
        "float32",
        "",
        "r.m.s. of (data − model)/√variance over the shoebox",
        not_finite="NaN = no pixel counts",
    )


class Samples(Table):
    """A few shoeboxes to look at."""

    reflection = Column("int32", "", "row of reflections", refers="reflections")
    bbox = Column("int32", "px", "of the shoebox: fast0 fast1 slow0 slow1, half open", (4,))
    first_pixel = Column(
        "int64", "", "row of sample_pixels where the shoebox begins", refers="sample_pixels"
    )


class SamplePixels(Table):
    """Their pixels."""

    data = Column("float32", "photon", "of the shoebox", not_finite=NO_COUNT)
    model = Column("float32", "photon", "Bragg photons and background", not_finite=NO_COUNT)
    background = Column("float32", "photon", "of the model", not_finite=NO_COUNT)
    z = Column("float32", "", "(data − model)/√variance", not_finite=NO_COUNT)


class Stage1(Product):
    """Lattices refined against their pixels."""

    kind = "stage1"

    lattices = TableOf(Lattices)
    reflections = TableOf(Reflections)
    samples = TableOf(Samples)
    sample_pixels = TableOf(SamplePixels)

"""Product of `ladder`: the regression series, rung by rung."""

from spreadflow.products.core import Column, LatticeIdentity, Product, Table, TableOf


class Lattices(LatticeIdentity):
    """The lattices of the annulus."""

    n_flagged = Column("int32", "", "reflections flagged: I/σ ≥ 2, integrated without failure")
    n_counted = Column("int32", "", "the same by a plain count")


class Rungs(Table):
    """Sums over the pixels and spots of a lattice on a rung."""

    lattice = Column("int32", "", "row of lattices", refers="lattices")
    rung = Column("int32", "", "row of attribute `rungs`")
    n = Column("int32", "", "reflections of the list: I/σ ≥ 5")
    radial = Column(
        "float64",
        "mm²",
        "sum of squares of observed - model along the direction from the beam centre",
    )
    transverse = Column("float64", "mm²", "the same across it")
    n_pixels = Column("int32", "px", "pixels that count; none on a rung without model")
    z = Column(
        "float64", "", "sums of (model - data)/√variance of the model, and of its square", (2,)
    )
    z_published = Column(
        "float64", "", "sums of (model - data)/√max(|data|, 1), and of its square", (2,)
    )
    seconds = Column("float64", "s", "processor time")


class Compared(Table):
    """Rungs compared with each other."""

    lattice = Column("int32", "", "row of lattices", refers="lattices")
    n_spots = Column("int32", "", "flagged shoeboxes of rung 2")
    n_fell = Column("int32", "", "of these with a smaller σ_Z than of the plane alone")
    planes = Column(
        "float64",
        "",
        "largest difference of planes of rungs 2 and 3, relative to the background",
    )
    pixels = Column("float64", "", "largest relative difference of pixels of rungs 3A and 3B")


class Samples(Table):
    """A few shoeboxes to look at."""

    lattice = Column("int32", "", "row of lattices", refers="lattices")
    hkl = Column("int32", "", "Miller index", (3,))
    bbox = Column("int32", "px", "fast0 fast1 slow0 slow1, half open", (4,))
    first_pixel = Column("int64", "", "row of pixels where the shoebox begins", refers="pixels")


class Pixels(Table):
    """Their pixels."""

    photons = Column("float32", "photon", "pedestal subtracted", not_finite="NaN = does not count")
    model = Column("float32", "photon", "of the rungs in attribute `pictured`", (3,))


class Ladder(Product):
    """Models of increasing detail, compared."""

    kind = "ladder"

    lattices = TableOf(Lattices)
    rungs = TableOf(Rungs)
    compared = TableOf(Compared)
    samples = TableOf(Samples)
    pixels = TableOf(Pixels)

"""What a simulation knows of its shots: the group /truth of image files."""

from spreadflow.products.core import Column, Product, Table, TableOf

KINDS = ("single", "blank", "double", "saturated", "unreadable")
"""Kinds of simulated shots in the order a run holds them; `shots/kind` is their number."""


class Shots(Table):
    """The simulated shots."""

    shot_id = Column("uint64", "", "as in index")
    kind = Column("uint8", "", ", ".join(f"{number} {kind}" for number, kind in enumerate(KINDS)))


class Lattices(Table):
    """The simulated lattices."""

    shot = Column("int32", "", "row of shots", refers="shots")
    A = Column("float64", "1/angstrom", "mean over the mosaic domains", (3, 3))
    n_cells = Column("float64", "", "unit cells of a domain along a, b, c", (3,))
    eta_rad = Column(
        "float64",
        "rad",
        "of the distribution the domains are drawn from: r.m.s. rotation angle",
    )
    scale = Column(
        "float64", "", "mosaic domains in the beam, times the pulses of a saturated shot"
    )


class Domains(Table):
    """Their mosaic domains."""

    lattice = Column(
        "int32", "", "row of lattices; none of a continuous distribution", refers="lattices"
    )
    rotation = Column(
        "float64", "", "from the mean, lab frame: the domain's matrix is rotation · A", (3, 3)
    )


class Reflections(Table):
    """The reflections that they light."""

    lattice = Column("int32", "", "row of lattices", refers="lattices")
    hkl = Column("int32", "", "conventional axes", (3,))
    panel = Column("int32", "", "panel")
    fast = Column("float64", "px", "centroid of the expected photons")
    slow = Column("float64", "px", "centroid of the expected photons")
    photons = Column("float64", "photon", "expected Bragg photons, before noise and gain")
    energy_ev = Column("float64", "eV", "mean energy of the diffracted photons")


class Curves(Table):
    """The curves of their sites."""

    site = Column("int32", "", "of attribute `sites` of the truth: their names")
    energy_ev = Column("float64", "eV", "channel")
    fp = Column("float64", "electron", "f′")
    fdp = Column("float64", "electron", "f″")


class Intensities(Table):
    """The intensities of their crystal."""

    hkl = Column("int16", "", "unique reflections, conventional axes, Friedel mates apart", (3,))
    f_squared = Column("float64", "electron²", "|F|² over the mean pulse of the file")


class Truth(Product):
    """What a simulation knows of its shots."""

    kind = "truth"

    shots = TableOf(Shots)
    lattices = TableOf(Lattices)
    domains = TableOf(Domains)
    reflections = TableOf(Reflections)


class TrueCurves(Product):
    """The curves of its sites."""

    kind = "true_curves"

    curves = TableOf(Curves)


class TrueIntensities(Product):
    """The intensities of its crystal."""

    kind = "true_intensities"

    intensities = TableOf(Intensities)

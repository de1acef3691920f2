"""Products of `annulus`, `wide` and `pack`: packed shoeboxes of accepted or of refined lattices."""

from spreadflow.products import index
from spreadflow.products.core import Column, LatticeIdentity, Product, Table, TableOf


class Lattices(LatticeIdentity):
    """The accepted lattices; of pack, those that predict chose reflections of."""

    A = Column("float64", "1/angstrom", "refined matrix", (3, 3), in_manifest=True)
    eta_rad = Column("float64", "rad", "as in reindex; of pack, as in stage1")
    domain_ang = Column("float64", "angstrom", "as in reindex; of pack, as in predict")
    spectrum = Column("int32", "", "row of spectra", refers="spectra")


class Spectra(Table):
    """The pulses of their shots."""

    shot_id = Column("uint64", "", "the shot")
    energies_ev = Column("float64", "eV", "channels", ("channels",))
    photons = Column("float64", "photon", "per channel", ("channels",))


class Reflections(index.Reflections):
    """The reflections of `reindex` in the range, or those that `predict` chose, and their
    shoeboxes.
    """

    bbox = Column("int32", "px", "of the shoebox: fast0 fast1 slow0 slow1, half open", (4,))
    first_pixel = Column(
        "int64",
        "",
        "row of pixels where the shoebox begins (slow outer, fast inner)",
        refers="pixels",
    )


class Pixels(Table):
    """The pixels of the shoeboxes, one after the other."""

    photons = Column("float32", "photon", "pedestal subtracted", not_finite="NaN = may not be used")
    valid = Column("bool", "", "may be used")
    foreground = Column("bool", "", "in the box around what integration summed of this reflection")
    overlap = Column("uint8", "", "bits of models.Overlap")


class AllPulses(Table):
    """All pulses together, in the manifest."""

    energies_ev = Column("float64", "eV", "all channels that any pulse has")
    photons = Column("float64", "photon", "in each, of all pulses together")


class Annulus(Product):
    """Packed shoeboxes of accepted lattices in a ring of resolution."""

    kind = "annulus"

    lattices = TableOf(Lattices)
    spectra = TableOf(Spectra)
    reflections = TableOf(Reflections)
    pixels = TableOf(Pixels)


class Wide(Annulus):
    """The same in a wider range."""

    kind = "wide"


class Pack(Annulus):
    """The same of refined lattices."""

    kind = "pack"


class Pulses(Product):
    """All pulses of packed shoeboxes together: a group of their manifest."""

    kind = "pulses"

    pulses = TableOf(AllPulses)

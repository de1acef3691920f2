"""Product of `predict`: the reflections of refined lattices, integrated, and which are chosen."""

from spreadflow.products import index
from spreadflow.products.core import Column, LatticeIdentity, Product, TableOf


class Lattices(LatticeIdentity):
    """The lattices of reindex."""

    outcome = Column("uint8", "", "errors.PredictedOutcome", in_manifest=True)
    shot = Column("int32", "", "number of its shot in the run", in_manifest=True)
    A = Column(
        "float64",
        "1/angstrom",
        "matrix that it is predicted with: of stage 1, on the axes that all lattices share; of "
        "others that of reindex, on the lattice's own axes",
        (3, 3),
    )
    eta_rad = Column("float64", "rad", "mosaic spread, from there too")
    domain_ang = Column("float64", "angstrom", "edge of a mosaic domain, from there too")
    scale = Column(
        "float64",
        "photon/electron²",
        "photons over |F|²·polarization·capture·lorentz·partiality, of all intensities",
        not_finite="NaN = not predicted, or not known",
    )
    mean_energy_ev = Column("float64", "eV", "of the pulse")
    n_spots = Column(
        "int32", "", "spots that reindex gave it, at the resolutions that are predicted"
    )
    seconds = Column("float64", "s", "processor time of its shot, shared by its lattices")


class Reflections(index.Reflections):
    """The reflections of the lattices that are predicted, chosen or not, beside what is known of
    those of reindex. Miller indices are on the axes of the lattice's A.
    """

    expected = Column(
        "float32",
        "photon",
        "of an average reflection in its place",
        not_finite="NaN = of a neighbour",
    )
    noise = Column(
        "float32", "photon", "standard deviation of the intensity without its own photons"
    )
    choice = Column("uint8", "", "models.Choice")
    fast_spot = Column("float64", "px", "of its observed spot", not_finite="NaN = none")
    slow_spot = Column("float64", "px", "of its observed spot", not_finite="NaN = none")


class Predict(Product):
    """Predicted and integrated reflections of refined lattices, and which are chosen."""

    kind = "predict"

    lattices = TableOf(Lattices)
    reflections = TableOf(Reflections)

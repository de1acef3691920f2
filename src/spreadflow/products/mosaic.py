"""Product of `mosaic`: distributions of mosaic domains, learned from pixels."""

from spreadflow.products.core import Column, LatticeIdentity, Product, Table, TableOf


class Lattices(LatticeIdentity):
    """The lattices of the shoeboxes, each with its set."""

    outcome = Column("uint8", "", "errors.LearnedOutcome", in_manifest=True)
    A = Column(
        "float64",
        "1/angstrom",
        "the mean of its domains where it taught a set",
        (3, 3),
        not_finite="NaN = taught none",
    )
    set = Column(
        "int32",
        "",
        "row of sets: its mosaic domains; -1 = the continuous distribution",
        refers="sets",
        in_manifest=True,
    )
    seconds = Column("float64", "s", "processor time spent on the lattice")


class Sets(Table):
    """Sets of mosaic domains, for one lattice or for all."""

    lattice = Column(
        "int32", "", "row of lattices that it was learned from; -1 = several", refers="lattices"
    )
    eta_rad = Column(
        "float64", "rad", "η of the continuous distribution, the unit of the components' widths"
    )
    held_out_continuous = Column(
        "float64", "", "−ln L of the held-out shoeboxes, continuous distribution"
    )
    held_out = Column("float64", "", "−ln L of the held-out shoeboxes with what was learned")
    is_better = Column(
        "bool", "", "held-out shoeboxes are likelier: it is used, and has components"
    )


class Rounds(Table):
    """Refinements of the grid on which a set was learned."""

    set = Column("int32", "", "row of sets", refers="sets")
    step_rad = Column("float64", "rad", "of the grid of rotations")
    n_grid = Column("int32", "", "nodes")
    n_nodes = Column("int32", "", "nodes kept")
    n_iterations = Column("int32", "", "of the weights")
    held_out = Column("float64", "", "−ln L of the held-out shoeboxes with the nodes kept")


class Components(Table):
    """The components of the sets: Gaussians about rotations."""

    set = Column("int32", "", "row of sets", refers="sets")
    rotation_rad = Column("float64", "rad", "rotation vector from the mean, lab frame: R·A", (3,))
    width = Column(
        "float64", "", "standard deviation of its Gaussian about each axis, in units of η"
    )
    share = Column("float64", "", "fraction of the domains; sums to 1 over a set")


class Mosaic(Product):
    """Learned sets of mosaic domains."""

    kind = "mosaic"

    lattices = TableOf(Lattices)
    sets = TableOf(Sets)
    rounds = TableOf(Rounds)
    components = TableOf(Components)

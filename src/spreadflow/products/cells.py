"""Product of `cells`: clusters of unit cells, and the accepted lattices."""

from spreadflow.products.core import Column, LatticeIdentity, Product, Table, TableOf


class Lattices(LatticeIdentity):
    """The lattices of all runs."""

    cell = Column(
        "float64", "angstrom, degree", "a b c α β γ, on the axes that all lattices share", (6,)
    )
    setting = Column(
        "int32",
        "",
        "M: Miller indices on the shared axes = M · those of reindex, A = A of reindex · M⁻¹",
        (3, 3),
    )
    cluster = Column(
        "int32",
        "",
        "cluster, 0 is the largest: by DBSCAN, or the nearest where none was sought; -1 = none",
    )
    mahalanobis = Column("float64", "", "distance from the chosen cluster")
    outcome = Column("uint8", "", "errors.LatticeOutcome; ACCEPTED is the accepted list")


class Clusters(Table):
    """Clusters of their cells."""

    n = Column("int32", "", "lattices in the cluster")
    mean = Column("float64", "angstrom, degree", "robust mean cell", (6,))
    location = Column("float64", "angstrom, degree", "robust mean of the features", ("features",))
    covariance = Column(
        "float64", "", "robust covariance of the features", ("features", "features")
    )


class Cells(Product):
    """Which lattices belong together, and the populations of their cells."""

    kind = "cells"

    lattices = TableOf(Lattices)
    clusters = TableOf(Clusters)

"""Product of `cells`: clusters of unit cells, and the accepted lattices."""

from spreadflow.io.schema.core import Column, Dataset, lattice_identity, table

LATTICES = table(
    "lattices",
    {
        **lattice_identity("reindex"),
        "cell": Column(
            "float64", "angstrom, degree", "a b c α β γ, on the axes that all lattices share", (6,)
        ),
        "setting": Column(
            "int32",
            "",
            "M: Miller indices on the shared axes = M · those of reindex, A = A of reindex · M⁻¹",
            (3, 3),
        ),
        "cluster": Column(
            "int32",
            "",
            "cluster, 0 is the largest: by DBSCAN, or the nearest where none was sought; -1 = none",
        ),
        "mahalanobis": Column("float64", "", "distance from the chosen cluster"),
        "outcome": Column("uint8", "", "errors.LatticeOutcome; ACCEPTED is the accepted list"),
    },
)
"""The lattices of all runs."""

CLUSTERS = table(
    "clusters",
    {
        "n": Column("int32", "", "lattices in the cluster"),
        "mean": Column("float64", "angstrom, degree", "robust mean cell", (6,)),
        "location": Column(
            "float64", "angstrom, degree", "robust mean of the features", ("features",)
        ),
        "covariance": Column(
            "float64", "", "robust covariance of the features", ("features", "features")
        ),
    },
)
"""Clusters of their cells."""

DATASETS: dict[str, Dataset] = LATTICES | CLUSTERS
"""Of a whole product."""

"""Product of `spread`: curves f′, f″ with their covariance."""

from spreadflow.io.schema.core import (
    NOT_USED,
    PIXEL_DEVIATIONS,
    Column,
    Dataset,
    lattice_identity,
    table,
)

CURVES = table(
    "curves",
    {
        "fit": Column("int32", "", "of attribute `fits`"),
        "site": Column("int32", "", "of attribute `sites`"),
        "energy_ev": Column("float64", "eV", "node"),
        "fp": Column("float64", "electron", "f′"),
        "fdp": Column("float64", "electron", "f″"),
        "fp_sigma": Column(
            "float64",
            "electron",
            "standard deviation, as quoted: attribute `sigma_kinds`, by fit; where the fit is "
            "smoothed, with the likely bias of that",
        ),
        "fdp_sigma": Column("float64", "electron", "the same of f″"),
        "fp_fisher": Column("float64", "electron", "standard deviation if the model is right"),
        "fdp_fisher": Column("float64", "electron", "the same of f″"),
        "fp_start": Column("float64", "electron", "where the refinement began"),
        "fdp_start": Column("float64", "electron", "the same of f″"),
    },
)
"""The curves of each fit at their nodes."""

VALUES = table(
    "values",
    {
        "fit": Column(
            "int32", "", "of attribute `fits`; values are f′, f″ at the nodes, site by site"
        ),
        "fisher": Column(
            "float64", "electron²", "row of their covariance if the model is right", ("value",)
        ),
        "sandwich": Column(
            "float64",
            "electron²",
            "the same from the scatter of the lattices; where the fit is smoothed, with the likely "
            "bias of that",
            ("value",),
        ),
    },
)
"""Their covariances."""

EDGES = table(
    "edges",
    {
        "fit": Column("int32", "", "of attribute `fits`"),
        "site": Column("int32", "", "of attribute `sites`"),
        "energy_ev": Column(
            "float64",
            "eV",
            "E0, the steepest point of f″",
            not_finite="NaN = none within reach of the metal's",
        ),
        "sigma_ev": Column(
            "float64",
            "eV",
            "its standard deviation, that of the shape's own E0 left out",
            not_finite="NaN = no edge",
        ),
        "difference_ev": Column(
            "float64",
            "eV",
            "E0 less that of each site",
            ("site",),
            not_finite="NaN = unlike elements, or no edge",
        ),
        "difference_sigma_ev": Column(
            "float64",
            "eV",
            "its standard deviation",
            ("site",),
            not_finite="NaN = unlike elements, or no edge",
        ),
    },
)
"""Absorption edges of the sites."""

CHANNELS = table(
    "channels",
    {
        "energy_ev": Column("float64", "eV", "channel"),
        "photons": Column("float64", "photon", "mean over the pulses"),
        "residual": Column(
            "float64",
            "",
            "(data − model)/model of the Bragg photons with the quoted curves",
            not_finite="NaN = no light",
        ),
        "residual_sigma": Column(
            "float64", "", "its standard deviation", not_finite="NaN = no light"
        ),
    },
)
"""How well the quoted curves explain each channel."""

LATTICES = table(
    "lattices",
    {
        **lattice_identity("reindex"),
        "outcome": Column("uint8", "", "errors.SpreadOutcome"),
        "loss_start": Column(
            "float64", "", "−ln L with the curves of the start", not_finite=NOT_USED
        ),
        "loss": Column(
            "float64",
            "",
            "−ln L with the quoted curves, without terms no curve changes",
            not_finite=NOT_USED,
        ),
        **PIXEL_DEVIATIONS,
        "seconds": Column("float64", "s", "processor time spent on the lattice in the last cycle"),
    },
)
"""How the lattices of the shoeboxes ended."""

DATASETS: dict[str, Dataset] = CURVES | VALUES | EDGES | CHANNELS | LATTICES
"""Of a whole product."""

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
            "the same from the scatter of what attribute `sigma_over` says: unique reflections "
            "where X is unknown, as the error of a model is one draw for each of them, and "
            "lattices otherwise; where the fit is smoothed, with the likely bias of that",
            ("value",),
        ),
    },
)
"""Their covariances."""

NO_NODE = "NaN = no node in that band"
"""What a figure of `constants` is that does not exist."""

OF_KINDS = {"fp": "f′", "fdp": "f″"}
"""Names of curves in columns."""

MEANS = {
    name: Column("float64", "electron", f"mean of {kind}", not_finite=NO_NODE)
    for name, kind in OF_KINDS.items()
}
"""Means of the curves."""

ABOUT_MEANS = {
    f"{name}_{suffix}": Column("float64", "electron", meaning, not_finite=NO_NODE)
    for name in OF_KINDS
    for suffix, meaning in {
        "start": "the same where the refinement began",
        "sigma": "standard deviation of the mean, as quoted; it is large for f′ where X is unknown "
        "and the dispersion relation does not tie it to the tables",
        "shape_sigma": "root mean square over the nodes of the standard deviation of the shape, "
        "the curve less its mean",
    }.items()
}
"""What is known of the means, and of the shapes."""

CONSTANTS = table(
    "constants",
    {
        "fit": Column("int32", "", "of attribute `fits`"),
        "site": Column("int32", "", "of attribute `sites`"),
        **MEANS,
        **ABOUT_MEANS,
    },
)
"""The curves' means over the nodes from 12 eV below to 28 eV above the tabulated edge of the first
site's metal, and their shapes.
"""

SITES = table(
    "sites",
    {
        "site": Column("int32", "", "of attribute `sites`"),
        "unknown": Column("int32", "", "of attribute `site_unknowns`"),
        "value": Column(
            "float64",
            "",
            "what it was refined to, less what the model has: x, y, z, a common shift of the "
            "site's atoms on orthogonal axes with x along a, Å; B, Å²; ln of the occupancy",
        ),
        "sigma": Column("float64", "", "its standard deviation, as quoted of the first fit"),
        "prior_sigma": Column("float64", "", "standard deviation that the model was said to have"),
    },
)
"""What was refined of sites beside their curves, with the quoted fit; empty without
`refine_sites`.
"""

CENTRIC = "NaN = X has no such part"
"""What b is of a reflection that has none."""

REFLECTIONS = table(
    "reflections",
    {
        "hkl": Column("int32", "", "in the asymmetric unit, Friedel mates as one", (3,)),
        "d": Column("float64", "Å", "resolution"),
        "is_centric": Column("bool", "", "symmetry leaves X one phase, but for its sign"),
        "shell": Column("int32", "", "of resolution", refers="shells"),
        "n_shoeboxes": Column("int32", "", "shoeboxes that recorded it, or its Friedel mate"),
        "f_model": Column(
            "float64",
            "electron",
            "|X| of the model, which is F without the sites' f′ and f″, in the mean light",
        ),
        "prior_sigma": Column(
            "float64",
            "electron",
            "√S: standard deviation of X about the model's, before its pixels are looked at",
        ),
        "a": Column("float64", "electron", "X less the model's, along the latter"),
        "a_sigma": Column("float64", "electron", "its standard deviation, all else held"),
        "b": Column("float64", "electron", "the same across, 90° ahead", not_finite=CENTRIC),
        "b_sigma": Column(
            "float64", "electron", "its standard deviation, all else held", not_finite=CENTRIC
        ),
        "f_start": Column(
            "float64",
            "electron",
            "|F| of the start in the mean light: the model's X, and the sites with the curves of "
            "the start",
        ),
        "f": Column("float64", "electron", "the same as refined"),
        "phase_deg": Column("float64", "degree", "phase of F as refined, less that of the start"),
    },
)
"""X of each unique reflection; empty where X is that of the model (`unknown_f: none`)."""

SHELLS = table(
    "shells",
    {
        "d_max": Column("float64", "Å", "largest d of its reflections"),
        "d_min": Column("float64", "Å", "smallest d"),
        "n": Column("int32", "", "reflections"),
        "model_rms": Column("float64", "electron", "r.m.s. |X| of the model"),
        "first_rms": Column(
            "float64",
            "electron",
            "√S with which the search began: r.m.s. |X − X_model| as first assumed",
        ),
        "prior_rms": Column("float64", "electron", "the same as the data made it"),
        "a_rms": Column("float64", "electron", "r.m.s. of a as found"),
        "b_rms": Column("float64", "electron", "r.m.s. of b as found", not_finite=CENTRIC),
        "correlation": Column(
            "float64",
            "",
            "Pearson's, of |F| as refined with |F| of the start",
            not_finite="NaN = fewer than two reflections",
        ),
        "phase_moved_deg": Column(
            "float64",
            "degree",
            "mean absolute movement of the phase of F, weighted with |F|",
            not_finite="NaN = no |F|",
        ),
    },
)
"""The same in shells of resolution, from low to high; empty where X is that of the model."""

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

DATASETS: dict[str, Dataset] = (
    CURVES | VALUES | CONSTANTS | SITES | EDGES | CHANNELS | LATTICES | REFLECTIONS | SHELLS
)
"""Of a whole product."""

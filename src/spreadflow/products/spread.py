"""Product of `spread`: curves f′, f″ with their covariance."""

from spreadflow.products.core import (
    NOT_USED,
    Column,
    LatticeIdentity,
    PixelDeviations,
    Product,
    Table,
    TableOf,
)

SITE_UNITS = {"x": " Å", "y": " Å", "z": " Å", "B": " Å²", "ln occupancy": ""}
"""Units of unknowns of sites, by name."""


class Curves(Table):
    """The curves of each fit at their nodes."""

    fit = Column("int32", "", "of attribute `fits`")
    site = Column("int32", "", "of attribute `sites`")
    energy_ev = Column("float64", "eV", "node")
    fp = Column("float64", "electron", "f′")
    fdp = Column("float64", "electron", "f″")
    fp_sigma = Column(
        "float64",
        "electron",
        "standard deviation, as quoted: attribute `sigma_kinds`, by fit; where the fit is "
        "smoothed, with the likely bias of that",
    )
    fdp_sigma = Column("float64", "electron", "the same of f″")
    fp_fisher = Column("float64", "electron", "standard deviation if the model is right")
    fdp_fisher = Column("float64", "electron", "the same of f″")
    fp_start = Column("float64", "electron", "where the refinement began")
    fdp_start = Column("float64", "electron", "the same of f″")


class Values(Table):
    """Their covariances."""

    fit = Column("int32", "", "of attribute `fits`; values are f′, f″ at the nodes, site by site")
    fisher = Column(
        "float64", "electron²", "row of their covariance if the model is right", ("value",)
    )
    sandwich = Column(
        "float64",
        "electron²",
        "the same from the scatter of what attribute `sigma_over` says: unique reflections "
        "where X is unknown, as the error of a model is one draw for each of them, and "
        "lattices otherwise; where the fit is smoothed, with the likely bias of that",
        ("value",),
    )


NO_NODE = "NaN = no node in that band"
"""What a figure of `constants` is that does not exist."""


class Constants(Table):
    """The curves' means over the nodes from 12 eV below to 28 eV above the tabulated edge of the
    first site's metal, and their shapes.
    """

    fit = Column("int32", "", "of attribute `fits`")
    site = Column("int32", "", "of attribute `sites`")
    fp = Column("float64", "electron", "mean of f′", not_finite=NO_NODE)
    fdp = Column("float64", "electron", "mean of f″", not_finite=NO_NODE)
    fp_start = Column(
        "float64", "electron", "the same where the refinement began", not_finite=NO_NODE
    )
    fp_sigma = Column(
        "float64",
        "electron",
        "standard deviation of the mean, as quoted; it is large for f′ where X is unknown and the "
        "dispersion relation does not tie it to the tables",
        not_finite=NO_NODE,
    )
    fp_shape_sigma = Column(
        "float64",
        "electron",
        "root mean square over the nodes of the standard deviation of the shape, the curve less "
        "its mean",
        not_finite=NO_NODE,
    )
    fdp_start = Column(
        "float64", "electron", "the same where the refinement began", not_finite=NO_NODE
    )
    fdp_sigma = Column(
        "float64",
        "electron",
        "standard deviation of the mean, as quoted; it is large for f′ where X is unknown and the "
        "dispersion relation does not tie it to the tables",
        not_finite=NO_NODE,
    )
    fdp_shape_sigma = Column(
        "float64",
        "electron",
        "root mean square over the nodes of the standard deviation of the shape, the curve less "
        "its mean",
        not_finite=NO_NODE,
    )


class Sites(Table):
    """What was refined of sites beside their curves, with the quoted fit; empty without
    `refine_sites`.
    """

    site = Column("int32", "", "of attribute `sites`")
    unknown = Column("int32", "", "of attribute `site_unknowns`")
    value = Column(
        "float64",
        "",
        "what it was refined to, less what the model has: x, y, z, a common shift of the "
        "site's atoms on orthogonal axes with x along a, Å; B, Å²; ln of the occupancy",
    )
    sigma = Column("float64", "", "its standard deviation, as quoted of the first fit")
    prior_sigma = Column("float64", "", "standard deviation that the model was said to have")


CENTRIC = "NaN = X has no such part"
"""What b is of a reflection that has none."""


class Reflections(Table):
    """X of each unique reflection; empty where X is that of the model (`unknown_f: none`)."""

    hkl = Column("int32", "", "in the asymmetric unit, Friedel mates as one", (3,))
    d = Column("float64", "Å", "resolution")
    is_centric = Column("bool", "", "symmetry leaves X one phase, but for its sign")
    shell = Column("int32", "", "of resolution", refers="shells")
    n_shoeboxes = Column("int32", "", "shoeboxes that recorded it, or its Friedel mate")
    f_model = Column(
        "float64",
        "electron",
        "|X| of the model, which is F without the sites' f′ and f″, in the mean light",
    )
    prior_sigma = Column(
        "float64",
        "electron",
        "√S: standard deviation of X about the model's, before its pixels are looked at",
    )
    a = Column("float64", "electron", "X less the model's, along the latter")
    a_sigma = Column("float64", "electron", "its standard deviation, all else held")
    b = Column("float64", "electron", "the same across, 90° ahead", not_finite=CENTRIC)
    b_sigma = Column(
        "float64", "electron", "its standard deviation, all else held", not_finite=CENTRIC
    )
    f_start = Column(
        "float64",
        "electron",
        "|F| of the start in the mean light: the model's X, and the sites with the curves of "
        "the start",
    )
    f = Column("float64", "electron", "the same as refined")
    phase_deg = Column("float64", "degree", "phase of F as refined, less that of the start")


class Shells(Table):
    """The same in shells of resolution, from low to high; empty where X is that of the model."""

    d_max = Column("float64", "Å", "largest d of its reflections")
    d_min = Column("float64", "Å", "smallest d")
    n = Column("int32", "", "reflections")
    model_rms = Column("float64", "electron", "r.m.s. |X| of the model")
    first_rms = Column(
        "float64",
        "electron",
        "√S with which the search began: r.m.s. |X − X_model| as first assumed",
    )
    prior_rms = Column("float64", "electron", "the same as the data made it")
    a_rms = Column("float64", "electron", "r.m.s. of a as found")
    b_rms = Column("float64", "electron", "r.m.s. of b as found", not_finite=CENTRIC)
    correlation = Column(
        "float64",
        "",
        "Pearson's, of |F| as refined with |F| of the start",
        not_finite="NaN = fewer than two reflections",
    )
    phase_moved_deg = Column(
        "float64",
        "degree",
        "mean absolute movement of the phase of F, weighted with |F|",
        not_finite="NaN = no |F|",
    )


class Edges(Table):
    """Absorption edges of the sites."""

    fit = Column("int32", "", "of attribute `fits`")
    site = Column("int32", "", "of attribute `sites`")
    energy_ev = Column(
        "float64",
        "eV",
        "E0, the steepest point of f″",
        not_finite="NaN = none within reach of the metal's",
    )
    sigma_ev = Column(
        "float64",
        "eV",
        "its standard deviation, that of the shape's own E0 left out",
        not_finite="NaN = no edge",
    )
    difference_ev = Column(
        "float64",
        "eV",
        "E0 less that of each site",
        ("site",),
        not_finite="NaN = unlike elements, or no edge",
    )
    difference_sigma_ev = Column(
        "float64",
        "eV",
        "its standard deviation",
        ("site",),
        not_finite="NaN = unlike elements, or no edge",
    )


class Channels(Table):
    """How well the quoted curves explain each channel."""

    energy_ev = Column("float64", "eV", "channel")
    photons = Column("float64", "photon", "mean over the pulses")
    residual = Column(
        "float64",
        "",
        "(data − model)/model of the Bragg photons with the quoted curves",
        not_finite="NaN = no light",
    )
    residual_sigma = Column("float64", "", "its standard deviation", not_finite="NaN = no light")


class Lattices(PixelDeviations, LatticeIdentity):
    """How the lattices of the shoeboxes ended."""

    outcome = Column("uint8", "", "errors.SpreadOutcome")
    loss_start = Column("float64", "", "−ln L with the curves of the start", not_finite=NOT_USED)
    loss = Column(
        "float64",
        "",
        "−ln L with the quoted curves, without terms no curve changes",
        not_finite=NOT_USED,
    )
    seconds = Column("float64", "s", "processor time spent on the lattice in the last cycle")


class Spread(Product):
    """The curves f′(E) and f″(E) of each site."""

    kind = "spread"

    curves = TableOf(Curves)
    values = TableOf(Values)
    constants = TableOf(Constants)
    sites = TableOf(Sites)
    edges = TableOf(Edges)
    channels = TableOf(Channels)
    lattices = TableOf(Lattices)
    reflections = TableOf(Reflections)
    shells = TableOf(Shells)

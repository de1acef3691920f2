"""Product of `merge`: merged intensities, scales, statistics."""

from spreadflow.products.core import NOT_USED, Column, LatticeIdentity, Product, Table, TableOf


class Merged(Table):
    """Unique reflections, Friedel mates apart."""

    hkl = Column("int32", "", "asymmetric unit (CCP4)", (3,))
    friedel = Column("int8", "", "+1 = I(+), -1 = I(-), 0 = centric")
    intensity = Column("float64", "", "weighted mean, arbitrary scale")
    sigma = Column("float64", "", "standard deviation, scatter and mate considered")
    half = Column(
        "float64",
        "",
        "weighted means of the half sets by hash of shot_id",
        (2,),
        not_finite="NaN = none",
    )
    n = Column("int32", "", "observations")
    chi2 = Column("float64", "", "Σ ((I - mean)/σ)² of the observations")


class Lattices(LatticeIdentity):
    """The scales of the accepted lattices."""

    scale = Column("float64", "", "G, its pulse's photons apart", not_finite=NOT_USED)
    b = Column(
        "float64",
        "angstrom²",
        "B: photons = G·exp(-2 B s²)·pulse·polarization·capture·lorentz·partiality·I, "
        "s = 1/(2d), pulse = pulse_photons over their mean",
        not_finite=NOT_USED,
    )
    tilt_rad = Column(
        "float64",
        "rad",
        "rotations about the lab's x and y against reindex",
        (2,),
        not_finite=NOT_USED,
    )
    log_width = Column(
        "float64", "", "ln of the width of its nodes over that of reindex", not_finite=NOT_USED
    )
    chi2 = Column(
        "float64",
        "",
        "mean squared deviation, in σ, from what other lattices measured",
        not_finite="NaN without any",
    )
    n = Column("int32", "", "reflections that count")
    used = Column("bool", "", "took part in the merge")


class Bins(Table):
    """Statistics in shells of resolution."""

    d_max = Column("float64", "angstrom", "low-resolution edge", not_finite="infinite = all")
    d_min = Column("float64", "angstrom", "high-resolution edge")
    n_possible = Column("int32", "", "unique reflections, Friedel mates separate")
    n_measured = Column("int32", "", "of these measured")
    n_observations = Column("int32", "", "observations of these")
    mean_intensity = Column("float64", "", "⟨I⟩ of the merged reflections", not_finite="NaN = none")
    i_over_sigma = Column("float64", "", "⟨I/σ⟩ of the merged reflections", not_finite="NaN = none")
    cc_half = Column("float64", "", "CC1/2", not_finite="NaN = too few pairs")
    n_pairs = Column("int32", "", "pairs of CC1/2")
    r_split = Column("float64", "", "Rsplit", not_finite="NaN = too few pairs")
    cc_ano = Column(
        "float64",
        "",
        "half-set correlation of anomalous differences",
        not_finite="NaN = too few pairs",
    )
    n_pairs_ano = Column("int32", "", "pairs of cc_ano")


class Merge(Product):
    """Merged intensities, scales and statistics."""

    kind = "merge"

    merged = TableOf(Merged)
    lattices = TableOf(Lattices)
    bins = TableOf(Bins)

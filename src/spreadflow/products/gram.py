"""Parts of `spread` and `stage2`: what the pixels of each lattice say about |F|², in each channel
or flat in energy.
"""

from spreadflow.products.core import (
    NOT_USED,
    Column,
    LatticeIdentity,
    PixelDeviations,
    Product,
    Table,
    TableOf,
)


class Lattices(PixelDeviations, LatticeIdentity):
    """The lattices of the shoeboxes."""

    outcome = Column("uint8", "", "errors.SpreadOutcome", in_manifest=True)
    A = Column(
        "float64",
        "1/angstrom",
        "refined matrix, the mean of the mosaic domains",
        (3, 3),
        not_finite=NOT_USED,
    )
    n_cells = Column(
        "float64", "", "unit cells of a mosaic domain along a, b, c", (3,), not_finite=NOT_USED
    )
    eta_axes_rad = Column(
        "float64", "rad", "mosaic spread by axis, as in stage1", (3,), not_finite=NOT_USED
    )
    scale = Column(
        "float64",
        "",
        "mosaic domains in a beam of `recording.beam_size_mm`",
        not_finite=NOT_USED,
    )
    photons = Column(
        "float64", "photon", "of the pulse, by channel", ("channel",), not_finite=NOT_USED
    )
    loss = Column(
        "float64",
        "",
        "½ Σ (data − model)²/variance where it was expanded, planes eliminated",
        not_finite=NOT_USED,
    )
    score = Column(
        "float64", "", "its fall by what stage 1 refines", ("unknown",), not_finite=NOT_USED
    )
    nuisance = Column(
        "float64",
        "",
        "information about what stage 1 refines",
        ("unknown", "unknown"),
        not_finite=NOT_USED,
    )
    n_pixels = Column("int32", "px", "pixels fitted")
    seconds = Column("float64", "s", "processor time spent on the lattice")


class Boxes(Table):
    """Boxes of a Gram matrix: columns that share information."""

    lattice = Column("int32", "", "row of lattices", refers="lattices")
    n_columns = Column("int32", "", "columns that are its")
    d = Column("float32", "angstrom", "resolution of its reflection")
    n_pixels = Column("int32", "px", "pixels fitted")
    sigma_z = Column(
        "float32",
        "",
        "r.m.s. of (data − model)/√variance over its pixels",
        not_finite="NaN = no pixel counts",
    )


class Columns(Table):
    """Columns of the Gram matrices: |F|² of a reflection in a channel."""

    lattice = Column("int32", "", "row of lattices", refers="lattices")
    hkl = Column("int16", "", "Miller index, conventional axes", (3,))
    channel = Column("int32", "", "of attribute `energies_ev`")
    intensity = Column("float64", "electron²", "|F|² the model had")
    slope = Column("float64", "1/electron²", "fall of −ln L by |F|², planes eliminated")
    cross = Column(
        "float64", "1/electron²", "information shared with what stage 1 refines", ("unknown",)
    )


class Triangles(Table):
    """The elements of the Gram matrices."""

    value = Column(
        "float32",
        "1/electron⁴",
        "information about |F|²: lower triangle of each box, row by row",
    )


class Gram(Product):
    """What the pixels of lattices say about |F|²."""

    kind = "gram"

    lattices = TableOf(Lattices)
    boxes = TableOf(Boxes)
    columns = TableOf(Columns)
    triangles = TableOf(Triangles)

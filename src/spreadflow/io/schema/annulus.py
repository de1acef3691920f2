"""Products of `annulus`, `wide` and `pack`: packed shoeboxes of accepted or of refined lattices."""

from spreadflow.io.schema import index
from spreadflow.io.schema.core import Column, Dataset, lattice_identity, table

LATTICES = table(
    "lattices",
    {
        **lattice_identity("reindex"),
        "A": Column("float64", "1/angstrom", "refined matrix", (3, 3), in_manifest=True),
        "eta_rad": Column("float64", "rad", "as in reindex; of pack, as in stage1"),
        "domain_ang": Column("float64", "angstrom", "as in reindex; of pack, as in predict"),
        "spectrum": Column("int32", "", "row of spectra", refers="spectra"),
    },
)
"""The accepted lattices; of pack, those that predict chose reflections of."""

SPECTRA = table(
    "spectra",
    {
        "shot_id": Column("uint64", "", "the shot"),
        "energies_ev": Column("float64", "eV", "channels", ("channels",)),
        "photons": Column("float64", "photon", "per channel", ("channels",)),
    },
)
"""The pulses of their shots."""

REFLECTIONS = table(
    "reflections",
    {
        "bbox": Column("int32", "px", "of the shoebox: fast0 fast1 slow0 slow1, half open", (4,)),
        "first_pixel": Column(
            "int64",
            "",
            "row of pixels where the shoebox begins (slow outer, fast inner)",
            refers="pixels",
        ),
    },
)
"""The reflections of `reindex` in the range, or those that `predict` chose, and their shoeboxes."""

PIXELS = table(
    "pixels",
    {
        "photons": Column(
            "float32", "photon", "pedestal subtracted", not_finite="NaN = may not be used"
        ),
        "valid": Column("bool", "", "may be used"),
        "foreground": Column(
            "bool", "", "in the box around what integration summed of this reflection"
        ),
        "overlap": Column("uint8", "", "bits of models.Overlap"),
    },
)
"""The pixels of the shoeboxes, one after the other."""

PULSES = table(
    "pulses",
    {
        "energies_ev": Column("float64", "eV", "all channels that any pulse has"),
        "photons": Column("float64", "photon", "in each, of all pulses together"),
    },
)
"""All pulses together, in the manifest."""

DATASETS: dict[str, Dataset] = LATTICES | SPECTRA | index.REFLECTIONS | REFLECTIONS | PIXELS
"""Of a whole product."""

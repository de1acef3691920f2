"""Spectra that spec files name, for the stages that read the images of adopted lattices."""

from spreadflow.io.schema.core import Column, Dataset, table

SHOTS = table(
    "shots",
    {
        "shot_id": Column("uint64", "", "as in reindex"),
        "n_channels": Column("int32", "", "rows of channels, which are in the order of the shots"),
    },
)
"""The shots whose spectra are here."""

CHANNELS = table(
    "channels",
    {
        "energy_ev": Column("float64", "eV", "ascending in each shot"),
        "share": Column("float64", "", "of the photons of the pulse"),
    },
)
"""Their channels."""

DATASETS: dict[str, Dataset] = SHOTS | CHANNELS
"""Of a whole file."""

"""Spectra that spec files name, for the stages that read the images of adopted lattices."""

from spreadflow.products.core import Column, Product, Table, TableOf


class Shots(Table):
    """The shots whose spectra are here."""

    shot_id = Column("uint64", "", "as in reindex")
    n_channels = Column("int32", "", "rows of channels, which are in the order of the shots")


class Channels(Table):
    """Their channels."""

    energy_ev = Column("float64", "eV", "ascending in each shot")
    share = Column("float64", "", "of the photons of the pulse")


class Spectra(Product):
    """Spectra that are supplied beside the images."""

    kind = "spectra"

    shots = TableOf(Shots)
    channels = TableOf(Channels)

"""Product of `adopt`: what became of the lattices of another program."""

from spreadflow.products.core import Column, Product, Table, TableOf


class Lines(Table):
    """The lattices: lines of a spec file; without images, lattices of the files, in the order of
    their shots.
    """

    line = Column(
        "int32",
        "",
        "number of the line in the spec file, or of the first of a crystal in a stream, from 1; of "
        "the experiment in an .expt without images",
    )
    experiment = Column(
        "int32",
        "",
        "number of the experiment in the .expt, -1 = none; without images, of the lattice in its "
        "shot",
    )
    shot_id = Column("uint64", "", "as in reindex; 0 = none")
    k = Column("int32", "", "as in reindex; -1 = not there")
    n_reflections = Column("int32", "", "indexed reflections of the lattice in the file")
    n_agree = Column("int32", "", "of these, where A puts their Miller index")
    outcome = Column("uint8", "", "errors.AdoptOutcome")


class Adopt(Product):
    """What became of the lattices of another program."""

    kind = "adopt"

    lines = TableOf(Lines)

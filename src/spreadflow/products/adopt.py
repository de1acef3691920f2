"""Product of `adopt`: what became of the lines of a spec file."""

from spreadflow.products.core import Column, Product, Table, TableOf


class Lines(Table):
    """The lines."""

    line = Column("int32", "", "number of the line in the spec file, from 1")
    experiment = Column("int32", "", "number of the experiment in the .expt; -1 = none")
    shot_id = Column("uint64", "", "as in reindex; 0 = none")
    k = Column("int32", "", "as in reindex; -1 = not there")
    n_reflections = Column("int32", "", "indexed reflections of the experiment in the .refl")
    n_agree = Column("int32", "", "of these, where A puts their Miller index")
    outcome = Column("uint8", "", "errors.AdoptOutcome")


class Adopt(Product):
    """What became of the lines of a spec file."""

    kind = "adopt"

    lines = TableOf(Lines)

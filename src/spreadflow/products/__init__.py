"""Every dataset of every spreadflow file: name, dimensions, dtype, unit, meaning. docs/files.md is
generated from here. Each kind of file has its module, and each is a class: its attributes are
tables, and theirs are columns.

Ragged data are flat columns: a row of a sub-table names the row it belongs to in a column whose
`refers` is that table (`spots/shot` → a row of `shots`). Such columns are shifted when the parts of
a product are read as one.
"""

from spreadflow.products.adopt import Adopt
from spreadflow.products.annulus import Annulus, Pack, Pulses, Wide
from spreadflow.products.cells import Cells
from spreadflow.products.core import Children, Column, Product, Table, Wanted
from spreadflow.products.gram import Gram
from spreadflow.products.index import Index, Reindex
from spreadflow.products.ladder import Ladder
from spreadflow.products.merge import Merge
from spreadflow.products.mosaic import Mosaic
from spreadflow.products.predict import Predict
from spreadflow.products.spectra import Spectra
from spreadflow.products.spread import Spread
from spreadflow.products.stage1 import Stage1
from spreadflow.products.stage2 import Stage2
from spreadflow.products.truth import KINDS, TrueCurves, TrueIntensities, Truth

__all__ = [
    "BY_KIND",
    "KINDS",
    "SHOEBOXES",
    "VERSION",
    "Adopt",
    "Annulus",
    "Cells",
    "Children",
    "Column",
    "Gram",
    "Index",
    "Ladder",
    "Merge",
    "Mosaic",
    "Pack",
    "Predict",
    "Product",
    "Pulses",
    "Reindex",
    "Spectra",
    "Spread",
    "Stage1",
    "Stage2",
    "Table",
    "TrueCurves",
    "TrueIntensities",
    "Truth",
    "Wanted",
    "Wide",
]

VERSION = 9
"""Of the whole schema, in every file: a product of another version is refused."""

_ALL: tuple[type[Product], ...] = (
    Index,
    Adopt,
    Reindex,
    Spectra,
    Cells,
    Merge,
    Annulus,
    Wide,
    Pack,
    Pulses,
    Ladder,
    Mosaic,
    Stage1,
    Predict,
    Gram,
    Stage2,
    Spread,
    Truth,
    TrueCurves,
    TrueIntensities,
)

BY_KIND = {product.kind: product for product in _ALL}
"""The product of each kind of file."""

SHOEBOXES: dict[str, type[Annulus]] = {"annulus": Annulus, "wide": Wide, "pack": Pack}
"""The products that have shoeboxes, by kind."""

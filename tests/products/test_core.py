"""Products, tables and columns in memory: what can be asked of them, and what is refused."""

import pickle

import numpy as np
import pytest

from spreadflow.errors import FileError
from spreadflow.products import BY_KIND, Annulus, Children, Column, Merge, Product, Stage2
from spreadflow.products.core import LatticeIdentity, Table, TableOf


class Crystals(LatticeIdentity):
    """Rows that others refer to."""

    cell = Column("float64", "angstrom", "edges", (3,), not_finite="NaN = not known")
    values = Column("float64", "", "unknowns", ("unknown",))


class Spots(Table):
    """Rows that refer to others, and to rows of their own table."""

    crystal = Column("int32", "", "row of crystals", refers="crystals")
    neighbour = Column("int32", "", "row of spots; -1 = none", refers="spots")
    photons = Column("float32", "photon", "sum")


class Still(Product):
    """Two tables."""

    kind = "still"

    crystals = TableOf(Crystals)
    spots = TableOf(Spots)


def still(first: int = 0) -> Still:
    """Two crystals, of which the first has two spots and the second one. first: run of the first
    crystal.
    """
    return Still(
        crystals=Still.crystals(run=[first, first + 1], values=np.zeros((2, 4))),
        spots=Still.spots(
            crystal=np.array([0, 1, 0], np.int32),
            neighbour=np.array([2, -1, 0], np.int32),
            photons=[5.0, 6.0, 7.0],
        ),
    )


def test_a_class_describes_and_an_instance_has_rows():
    assert Still.crystals is Crystals
    assert Still.spots.photons is Spots.described()["photons"]
    assert (Still.spots.photons.dtype, Still.spots.photons.unit) == ("float32", "photon")
    assert Still.crystals.cell.whole_meaning == "edges; NaN = not known"
    assert Still.crystals.values.dims == ("crystals", "unknown")
    product = still()
    assert product.spots.photons.tolist() == [5.0, 6.0, 7.0]
    assert product.n_rows() == {"crystals": 2, "spots": 3}
    assert product.datasets().keys() == {
        "crystals/run",
        "crystals/values",
        "spots/crystal",
        "spots/neighbour",
        "spots/photons",
    }


def test_inherited_columns_are_those_of_the_table():
    """Columns that several tables have lie in the group of each."""
    assert Still.crystals.run.path == "crystals/run"
    assert list(Crystals.described()) == ["run", "shot_id", "k", "cell", "values"]
    assert Merge.bins.d_max.path == "bins/d_max"
    assert Stage2.merge_bins.d_max.path == "merge_bins/d_max"
    assert LatticeIdentity.run.table is LatticeIdentity


@pytest.mark.parametrize("kind", BY_KIND)
def test_the_datasets_of_a_product_are_in_its_own_tables(kind):
    product = BY_KIND[kind]
    assert product.kind == kind
    for path, column in product.described().items():
        assert path == column.path
        assert path.partition("/")[0] in product.declared()
        assert column.refers in ("", *product.declared()), path


def test_what_is_not_declared_is_refused():
    with pytest.raises(TypeError, match="table spots has no column colour"):
        Still.spots(colour=[1.0])
    with pytest.raises(TypeError, match="no such table spot"):
        Still(spot=still().spots)
    with pytest.raises(TypeError, match=r"no such table spots: .*Crystals"):
        Still(spots=still().crystals)
    with pytest.raises(TypeError, match="no such table bins"):
        Merge(bins=Stage2.shells.empty())


def test_what_is_not_in_memory_is_named():
    with pytest.raises(AttributeError, match="crystals/cell is not in memory"):
        _ = still().crystals.cell


def test_another_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="spots/photons has 2 rows, and others have 3"):
        Still.spots(crystal=[0, 0, 0], photons=[1.0, 2.0])
    spots = still().spots
    with pytest.raises(ValueError, match="spots/crystal has 1 rows, and others have 3"):
        spots.crystal = [0]
    spots.crystal = [1, 1, 1]
    assert spots.crystal.tolist() == [1, 1, 1]


@pytest.mark.parametrize("rows", [np.array([True, False, True]), [0, 2], slice(0, 3, 2)])
def test_rows_are_chosen_in_all_columns(rows):
    spots = still().spots[rows]
    assert isinstance(spots, Spots)
    assert len(spots) == 2
    assert spots.photons.tolist() == [5.0, 7.0]
    assert spots.crystal.tolist() == [0, 0]
    assert still().spots.photons.tolist() == [5.0, 6.0, 7.0]


def test_tables_that_are_not_read_keep_their_number_of_rows():
    columns = {"spots/photons": np.arange(3.0)}
    part = Still.from_columns(columns, {"crystals": 2, "spots": 3})
    assert part.n_rows() == {"crystals": 2, "spots": 3}
    assert part.datasets().keys() == columns.keys()
    assert Still.joined([part, part]).n_rows() == {"crystals": 4, "spots": 6}


def test_tables_that_are_not_handed_over_are_empty():
    product = Still(spots=still().spots)
    assert product.n_rows() == {"crystals": 0, "spots": 3}
    assert product.crystals.cell.shape == (0, 3)
    assert product.crystals.shot_id.dtype == np.uint64


def test_joined_rows_refer_to_the_rows_of_their_own_part():
    whole = Still.joined([still(), still(7), still(9)])
    assert whole.crystals.run.tolist() == [0, 1, 7, 8, 9, 10]
    assert whole.spots.crystal.tolist() == [0, 1, 0, 2, 3, 2, 4, 5, 4]
    assert whole.spots.neighbour.tolist() == [2, -1, 0, 5, -1, 3, 8, -1, 6]
    assert whole.spots.neighbour.dtype == np.int32
    assert whole.datasets().keys() == still().datasets().keys()


def test_nothing_joined_has_no_rows():
    assert Still.joined([]).n_rows() == {"crystals": 0, "spots": 0}


def test_parts_of_other_dimensions_are_not_joined():
    other = still()
    other.crystals.values = np.zeros((2, 5))
    with pytest.raises(FileError, match=r"crystals/values: .*unknown.*\(4,\), \(5,\)"):
        Still.joined([still(), other])


def test_a_blank_row_knows_nothing():
    row = Still.crystals.blank(unknown=4)
    assert len(row) == 1
    assert np.isnan(row.cell).all() and row.cell.shape == (1, 3)
    assert np.isnan(row.values).all() and row.values.shape == (1, 4)
    assert row.run.tolist() == [0]
    assert Still.crystals.blank(0, unknown=4).values.shape == (0, 4)


def test_a_table_of_its_rows():
    spots = Still.spots.from_rows([{"crystal": 0, "photons": 1.0}, {"crystal": 3, "photons": 2.0}])
    assert spots.crystal.tolist() == [0, 3]
    assert spots.photons.tolist() == [1.0, 2.0]
    assert list(spots.as_dict()) == ["crystal", "photons"]
    assert len(Still.spots.from_rows([])) == 0
    with pytest.raises(TypeError, match="no column colour"):
        Still.spots.from_rows([{"colour": 1.0}])


def test_children_are_the_rows_that_refer_to_a_parent():
    """In their order; those without a parent are nobody's, and a parent may have none."""
    parent = np.array([2, 0, -1, 2, 5, 0, 2])
    children = Children(parent)
    for number in range(7):
        np.testing.assert_array_equal(children[number], np.flatnonzero(parent == number))
    assert Children(np.empty(0, int))[0].tolist() == []


def test_a_product_that_is_partly_read_goes_to_other_ranks():
    n_rows = dict.fromkeys(Annulus.declared(), 2)
    part = Annulus.from_columns({"lattices/shot_id": np.array([3, 4], np.uint64)}, n_rows)
    again = pickle.loads(pickle.dumps(part))
    assert isinstance(again, Annulus)
    assert again.n_rows() == n_rows
    assert again.lattices.shot_id.tolist() == [3, 4]
    assert again.lattices.shot_id.dtype == np.uint64
    assert again.pixels.as_dict() == {}


def test_a_table_has_one_name():
    """It is that of its group in a file."""
    with pytest.raises(TypeError, match="peaks"):

        class _Other(Product):
            peaks = TableOf(Spots)


def test_what_is_not_declared_cannot_be_set():
    product = Annulus()
    with pytest.raises(TypeError, match="no table latices"):
        product.latices = product.lattices
    with pytest.raises(TypeError, match="no column colour"):
        product.lattices.colour = np.zeros(0)

"""Typed tables: what a column, a table and a product are.

A table is declared as a class whose attributes are its columns, and a product as one whose
attributes are its tables. On the classes, `Stage1.lattices.cell` is the description of the column;
on what was read from a file, it is the array.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike

from spreadflow.errors import FileError


class Column:
    """A column of a table: a dataset whose first dimension is the table's rows."""

    def __init__(
        self,
        dtype: str,
        unit: str,
        meaning: str,
        shape: tuple[str | int, ...] = (),
        *,
        refers: str = "",
        not_finite: str = "",
        in_manifest: bool = False,
    ):
        """Describe a column.

        shape: the dimensions of one row: names of shared dimensions, numbers of fixed ones; refers:
        the table whose row numbers the column holds; not_finite: what numbers mean that are not
        finite, NaN = none, empty where all have to be finite; in_manifest: whether the manifest of
        a product in parts has it too, of all parts.
        """
        self.dtype = dtype
        self.unit = unit
        self.meaning = meaning
        self.shape = shape
        self.refers = refers
        self.not_finite = not_finite
        self.in_manifest = in_manifest
        self.name = ""
        self.table: type[Table] = Table

    def __set_name__(self, table: "type[Table]", name: str) -> None:
        """Note which column of which table it is."""
        self.table = table
        self.name = name

    @overload
    def __get__(self, table: None, owner: type) -> "Column": ...

    @overload
    def __get__(self, table: "Table", owner: type) -> np.ndarray: ...

    def __get__(self, table: "Table | None", owner: type) -> "Column | np.ndarray":
        """Return the description, or the rows of a table in memory. Raises AttributeError where the
        column is not in memory.
        """
        if table is None:
            return self
        columns = table.as_dict()
        if self.name not in columns:
            raise AttributeError(f"{self.path} is not in memory: it was not read, or not set")
        return columns[self.name]

    def __set__(self, table: "Table", rows: ArrayLike) -> None:
        """Replace the rows of a table in memory. Raises ValueError for another number of rows."""
        table.put(self.name, rows)

    @property
    def path(self) -> str:
        """The name of the dataset in a file."""
        return f"{self.table.table_name}/{self.name}"

    @property
    def dims(self) -> tuple[str | int, ...]:
        """The dimensions of the dataset: its table, and those of a row."""
        return (self.table.table_name, *self.shape)

    @property
    def whole_meaning(self) -> str:
        """The meaning, with that of numbers that are not finite."""
        return "; ".join(filter(None, (self.meaning, self.not_finite)))

    def blank(self, n_rows: int, sizes: Mapping[str, int]) -> np.ndarray:
        """Return rows in which nothing is known: NaN, or 0 for what is no float64.

        sizes: those of the shared dimensions.
        """
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in self.shape]
        fill = np.nan if self.dtype == "float64" else 0
        return np.full((n_rows, *shape), fill)

    def empty(self) -> np.ndarray:
        """Return no rows; shared dimensions are 0."""
        shape = [0 if isinstance(dim, str) else dim for dim in self.shape]
        return np.empty((0, *shape), self.dtype)


class Table:
    """The rows of a table, columns by attribute. Subclasses declare the columns."""

    table_name: ClassVar[str] = ""
    """as in files: the attribute of the products that have it"""

    _described: ClassVar[dict[str, Column]] = {}

    def __init_subclass__(cls) -> None:
        """Make the columns that are inherited the table's own, which have its name in files."""
        super().__init_subclass__()
        cls._described = {}
        for base in reversed(cls.__mro__):
            for name, attribute in list(vars(base).items()):
                if isinstance(attribute, Column):
                    own = copy.copy(attribute)
                    own.table = cls
                    cls._described[name] = own
        for name, column in cls._described.items():
            setattr(cls, name, column)

    def __init__(self, **columns: ArrayLike):
        """Take columns by name, (row, ...) each. Raises TypeError for one that the table does not
        have, and ValueError where they differ in their number of rows.
        """
        self._columns: dict[str, np.ndarray] = {}
        self._n_rows: int | None = None
        for name, rows in columns.items():
            self.put(name, rows)

    @classmethod
    def described(cls) -> dict[str, Column]:
        """Return the description of each column, by name."""
        return cls._described

    @classmethod
    def unread(cls, n_rows: int) -> Self:
        """Return a table of so many rows, none of whose columns is in memory yet."""
        table = cls()
        table._n_rows = n_rows
        return table

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]]) -> Self:
        """Return a table from its rows, column → value each."""
        if not rows:
            return cls.empty()
        return cls(**{name: np.array([row[name] for row in rows]) for name in rows[0]})

    @classmethod
    def blank(cls, n_rows: int = 1, **sizes: int) -> Self:
        """Return rows in which nothing is known: NaN, or 0 for what is no float64.

        sizes: those of the dimensions that columns share, such as unknown=14.
        """
        described = cls.described().items()
        return cls(**{name: column.blank(n_rows, sizes) for name, column in described})

    @classmethod
    def empty(cls) -> Self:
        """Return a table without rows."""
        return cls(**{name: column.empty() for name, column in cls.described().items()})

    def put(self, name: str, rows: ArrayLike) -> None:
        """Set a column, (row, ...). Raises as the constructor does."""
        if name not in self._described:
            raise TypeError(f"table {self.table_name} has no column {name}")
        column = np.asanyarray(rows)
        if self._n_rows is not None and len(column) != self._n_rows:
            path = f"{self.table_name}/{name}"
            raise ValueError(f"{path} has {len(column)} rows, and others have {self._n_rows}")
        self._n_rows = len(column)
        self._columns[name] = column

    def __setattr__(self, name: str, value: object) -> None:
        """Set a column. Raises TypeError for one that the table does not have."""
        if not name.startswith("_") and name not in self._described:
            raise TypeError(f"table {self.table_name} has no column {name}")
        super().__setattr__(name, value)

    def as_dict(self) -> dict[str, np.ndarray]:
        """Return the columns in memory, by name."""
        return self._columns

    def datasets(self) -> dict[str, np.ndarray]:
        """Return the columns in memory, by their names in a file."""
        return {f"{self.table_name}/{name}": rows for name, rows in self._columns.items()}

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._n_rows or 0

    def __getitem__(self, rows: "slice | np.ndarray | Sequence[int]") -> Self:
        """Return the table of some rows, by their numbers or by a mask."""
        return type(self)(**{name: column[rows] for name, column in self._columns.items()})


class Children:
    """Which rows of a table refer to each row of another."""

    def __init__(self, parent: np.ndarray):
        """Sort the rows. parent: (row,) the row that each refers to, negative for none."""
        self._order = np.argsort(parent, kind="stable")
        self._parent = parent[self._order].astype(np.int64)

    def __getitem__(self, parent: int) -> np.ndarray:
        """Return the rows that refer to this one, in their order."""
        first, end = np.searchsorted(self._parent, [parent, parent + 1])
        return self._order[first:end]


T = TypeVar("T", bound=Table)


class TableOf(Generic[T]):
    """A table of a product: on the class, its declaration; on a product in memory, its rows."""

    def __init__(self, table: type[T]):
        """Declare a table."""
        self.table = table
        self.name = ""

    def __set_name__(self, product: type, name: str) -> None:
        """Note the name, which is that in files."""
        self.name = name

    @overload
    def __get__(self, product: None, owner: type) -> type[T]: ...

    @overload
    def __get__(self, product: "Product", owner: type) -> T: ...

    def __get__(self, product: "Product | None", owner: type) -> type[T] | T:
        """Return the declaration, or the table of a product in memory."""
        if product is None:
            return self.table
        return product.tables[self.name]  # type: ignore[return-value]

    def __set__(self, product: "Product", table: T) -> None:
        """Replace a table of a product in memory."""
        product.tables[self.name] = table


class Product:
    """The tables of a file. Subclasses declare them, with the kind that the file states."""

    kind: ClassVar[str] = ""
    """attribute `kind` of its files"""
    tables: dict[str, Table]
    """by name"""
    _declared: ClassVar[dict[str, type[Table]]] = {}

    def __init_subclass__(cls) -> None:
        """Give tables their names in files. Raises TypeError where one has another already."""
        super().__init_subclass__()
        cls._declared = {
            name: attribute.table
            for base in reversed(cls.__mro__)
            for name, attribute in vars(base).items()
            if isinstance(attribute, TableOf)
        }
        for name, table in cls._declared.items():
            known = vars(table).get("table_name", name)
            if known != name:
                raise TypeError(f"table {known} can't be {name} in another product")
            table.table_name = name

    def __init__(self, **tables: Table):
        """Take tables by name; the others have no rows. Raises TypeError for one that the product
        does not have.
        """
        declared = self.declared()
        for name, table in tables.items():
            if not isinstance(table, declared.get(name, ())):
                raise TypeError(f"product {self.kind} has no such table {name}: {type(table)}")
        self.tables = {
            name: tables[name] if name in tables else table.empty()
            for name, table in declared.items()
        }

    def __setattr__(self, name: str, value: object) -> None:
        """Set a table. Raises TypeError for one that the product does not have."""
        if name != "tables" and name not in self._declared:
            raise TypeError(f"product {self.kind} has no table {name}")
        super().__setattr__(name, value)

    @classmethod
    def declared(cls) -> dict[str, type[Table]]:
        """Return the declaration of each table, by name."""
        return cls._declared

    @classmethod
    @cache
    def described(cls) -> dict[str, Column]:
        """Return the description of each dataset, by its name in a file, `table/column`. It is the
        same mapping each time.
        """
        return {
            column.path: column
            for table in cls.declared().values()
            for column in table.described().values()
        }

    @classmethod
    def from_columns(
        cls, columns: Mapping[str, np.ndarray], n_rows: Mapping[str, int] | None = None
    ) -> Self:
        """Return a product from datasets by their names in a file.

        n_rows: of each table, where some of a table's columns are missing.
        """
        tables: dict[str, Table] = {}
        for name, table in cls.declared().items():
            paths = {column: f"{name}/{column}" for column in table.described()}
            read = {column: columns[path] for column, path in paths.items() if path in columns}
            if read or n_rows is None:
                tables[name] = table(**read)
            else:
                tables[name] = table.unread(n_rows[name])
        return cls(**tables)

    def datasets(self) -> dict[str, np.ndarray]:
        """Return the datasets in memory, by their names in a file."""
        return {
            path: rows for table in self.tables.values() for path, rows in table.datasets().items()
        }

    def n_rows(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        return {name: len(table) for name, table in self.tables.items()}

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return products as one, table after table; row numbers are shifted by the rows of the
        products before. All must have the same columns in memory. Raises FileError where they
        differ in a dimension other than their rows.
        """
        if not parts:
            return cls()
        tables: dict[str, Table] = {}
        for name, declared in cls.declared().items():
            pieces = [part.tables[name] for part in parts]
            columns = {}
            for column in pieces[0].as_dict():
                description = declared.described()[column]
                rows = [piece.as_dict()[column] for piece in pieces]
                if description.refers:
                    rows = _shifted(rows, description, parts)
                columns[column] = _one_after_the_other(rows, description)
            n_rows = sum(len(piece) for piece in pieces)
            tables[name] = declared(**columns) if columns else declared.unread(n_rows)
        return cls(**tables)


def _shifted(
    rows: Sequence[np.ndarray], column: Column, parts: Sequence[Product]
) -> list[np.ndarray]:
    """Return a column of row numbers, that of each product, greater by the rows that the products
    before have; −1 stays −1.
    """
    n_rows = [len(part.tables[column.refers]) for part in parts]
    n_before = np.cumsum([0, *n_rows[:-1]])
    return [
        np.where(of_part < 0, of_part, of_part + n).astype(column.dtype)
        for of_part, n in zip(rows, n_before, strict=True)
    ]


def _one_after_the_other(pieces: Sequence[np.ndarray], column: Column) -> np.ndarray:
    """Return the rows of all pieces of a column. Raises FileError where they differ in a dimension
    other than their rows.
    """
    shapes = {piece.shape[1:] for piece in pieces}
    if len(shapes) > 1:
        expected = f"parts with the same {column.shape}"
        raise FileError(column.path, expected, sorted(shapes), "Read these parts one by one.")
    return np.concatenate(pieces)


Wanted = Iterable[Column | type[Table]] | None
"""Columns and whole tables of a product; None = all."""


class LatticeIdentity(Table):
    """Columns that say which lattice of which run a row is."""

    run = Column("int32", "", "row of attribute `runs`", in_manifest=True)
    shot_id = Column("uint64", "", "as in reindex", in_manifest=True)
    k = Column("int32", "", "as in reindex", in_manifest=True)


NOT_USED = "NaN = not used"
"""What numbers of a lattice are that took no part."""


class PixelDeviations(Table):
    """Columns that say how far the pixels of a lattice are from their model."""

    model_error = Column(
        "float64",
        "",
        "standard deviation of the model of a pixel relative to its Bragg photons",
        not_finite=NOT_USED,
    )
    sigma_z = Column(
        "float64",
        "",
        "standard deviation of (data − model)/√variance over the pixels",
        not_finite=NOT_USED,
    )

"""Populations of unit cells in files: our own cells.h5, JSON, and the covariance pickles of
uc_metrics that cctbx.xfel.merge filters by.
"""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import h5py
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from spreadflow.errors import FileError
from spreadflow.io import pickled_records, store
from spreadflow.io.pickled_records import Record
from spreadflow.physics.unit_cell import NAMES
from spreadflow.products import Cells

COVARIANCE = "EmpiricalCovariance"
"""Class of scikit-learn that has the Gaussian of a population in a pickle."""

NAMED = (
    "uc_metrics.clustering.util.get_population_permutation",
    f"sklearn.covariance._empirical_covariance.{COVARIANCE}",
    f"sklearn.covariance.empirical_covariance_.{COVARIANCE}",
    f"sklearn.covariance.{COVARIANCE}",
)
"""What a covariance pickle may name beside arrays."""

GIVE_POPULATIONS = (
    "Give a cells.h5, what `spreadflow export cells.h5 --to json` makes of it, or a covariance "
    "pickle of uc_metrics."
)
"""What to do about another file."""


class FrozenCells(NamedTuple):
    """Gaussian populations of cells."""

    space_group: str | None
    """None = the file does not say it"""
    features: list[str]
    """names of cell parameters, Å and degrees"""
    chosen: int
    """number of the population that was accepted"""
    n: np.ndarray
    """(population,) lattices"""
    mean: np.ndarray | None
    """(population, 6) mean cells; None = the file has the features alone"""
    location: np.ndarray
    """(population, feature)"""
    covariance: np.ndarray
    """(population, feature, feature)"""


class _Population(BaseModel):
    """A population in JSON."""

    model_config = ConfigDict(extra="forbid")

    n: NonNegativeInt
    mean: Annotated[list[float], Field(min_length=6, max_length=6)]
    location: list[float]
    covariance: list[list[float]]


class _File(BaseModel):
    """The content of a JSON file."""

    model_config = ConfigDict(extra="forbid")

    space_group: str
    features: list[str]
    chosen: NonNegativeInt
    populations: Annotated[list[_Population], Field(min_length=1)]
    labels: list[int]
    """of each lattice, the number of its population; −1 = none"""


def export(product: Path, out: Path, images: Sequence[Path] = ()) -> list[Path]:
    """Write the populations of a product of `cells` as `out`_populations.json, and return this
    path. Raises FileError.
    """
    attributes = store.attributes(product, Cells)
    cells = store.read(product, Cells, [Cells.clusters, Cells.lattices.cluster])
    columns = cells.clusters.as_dict()
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    content = _File(
        space_group=attributes["space_group"],
        features=attributes["features"],
        chosen=attributes["chosen"],
        populations=[_Population(**dict(zip(columns, row, strict=True))) for row in rows],
        labels=cells.lattices.cluster.tolist(),
    )
    path = out.with_name(f"{out.name}_populations.json")
    store.write_text(path, content.model_dump_json(indent=1) + "\n")
    return [path]


def read(path: Path | str) -> FrozenCells:
    """Return the populations of a file, of whichever kind it is. Raises FileError where it can't be
    read, or where a population is no Gaussian of its features.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(path, "populations of cells", "nothing", GIVE_POPULATIONS)
    try:
        if h5py.is_hdf5(path):
            populations = _of_product(path)
        elif path.read_bytes()[:100].lstrip().startswith(b"{"):
            populations = _of_json(path)
        else:
            populations = _of_pickle(path)
        _check(populations)
    except (pickle.UnpicklingError, ValueError, OSError) as error:
        raise FileError(path, "populations of cells", error, GIVE_POPULATIONS) from None
    return populations


def _of_product(path: Path) -> FrozenCells:
    """Return the populations of a cells.h5."""
    attributes = store.attributes(path, Cells)
    clusters = store.read(path, Cells, [Cells.clusters]).clusters
    return FrozenCells(
        space_group=attributes["space_group"],
        features=attributes["features"],
        chosen=attributes["chosen"],
        **clusters.as_dict(),
    )


def _of_json(path: Path) -> FrozenCells:
    """Return the populations of a JSON file. Raises ValueError."""
    try:
        content = _File.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}") from None
    columns = {
        name: np.array([getattr(population, name) for population in content.populations])
        for name in _Population.model_fields
    }
    return FrozenCells(content.space_group, content.features, content.chosen, **columns)


def _of_pickle(path: Path) -> FrozenCells:
    """Return the populations of a covariance pickle, in the order of its components. Raises
    ValueError, UnpicklingError.
    """
    content = pickled_records.read(path, NAMED)
    features = _list(content, "features")
    state = _entry(content, "populations")
    components = _list(state, "fit_components")
    labels = pickled_records.value(_entry(state, "labels"))
    main = pickled_records.value(_entry(state, "main_components")).ravel()
    if len(main) != len(components):
        raise ValueError(f"{len(components)} covariances of {len(main)} components")
    states = [_entry(component, None) for component in components]
    return FrozenCells(
        space_group=None,
        features=[str(name) for name in features],
        chosen=0,
        n=np.array([(labels == label).sum() for label in main]),
        mean=None,
        location=_stacked(states, "location_"),
        covariance=_stacked(states, "covariance_"),
    )


def _entry(content: Any, key: str | None) -> Any:
    """Return what a mapping, or the state of a record, has under a key; None = all of it. Raises
    ValueError where there is no such thing.
    """
    entries = content.state if isinstance(content, Record) else content
    if not isinstance(entries, Mapping) or (key is not None and key not in entries):
        raise ValueError(f"no '{key}' in it" if key else "a component without a state")
    return entries if key is None else entries[key]


def _list(content: Any, key: str) -> Sequence[Any]:
    """Return a list that a mapping, or the state of a record, has under a key. Raises ValueError
    where there is none.
    """
    entry = _entry(content, key)
    if not isinstance(entry, list | tuple):
        raise ValueError(f"no list in '{key}'")
    return entry


def _stacked(states: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """Return an array of all components, one after the other."""
    arrays = [np.asarray(pickled_records.value(_entry(state, key)), float) for state in states]
    return np.stack(arrays) if arrays else np.empty(0)


def _check(populations: FrozenCells) -> None:
    """Raise ValueError where populations are no Gaussians of known features."""
    unknown = [name for name in populations.features if name not in NAMES]
    if unknown or not populations.features:
        raise ValueError(f"features {populations.features}, not some of {', '.join(NAMES)}")
    n = len(populations.n)
    n_features = len(populations.features)
    shapes = (populations.location.shape, populations.covariance.shape)
    if n == 0 or shapes != ((n, n_features), (n, n_features, n_features)):
        raise ValueError(f"{n} populations of {n_features} features in arrays of {shapes}")
    if not 0 <= populations.chosen < n:
        raise ValueError(f"population {populations.chosen} chosen of {n}")
    for covariance in populations.covariance:
        is_symmetric = np.allclose(covariance, covariance.T)
        if not is_symmetric or not (np.linalg.eigvalsh(covariance) > 0).all():
            raise ValueError(f"a covariance that is none: {covariance.tolist()}")
